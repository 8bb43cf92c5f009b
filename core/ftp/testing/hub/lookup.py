"""The repository and the files that a request is about, or the refusal that the public hub would answer with."""

from __future__ import annotations

from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ftp.testing.hub.store import TOKEN, Repository, Store


class Commit(NamedTuple):
    """The state of a repository that was asked for."""

    id: str
    sha: str
    files: dict[str, bytes]


def store_of(request: Request) -> Store:
    """Return the repositories that are served."""
    store = request.app.state.store
    assert isinstance(store, Store)
    return store


def id_of(request: Request) -> str:
    """Return the repository's key in the store, such as `models/ORG/NAME`."""
    kind = "datasets" if request.url.path.startswith(("/api/datasets/", "/datasets/")) else "models"
    return f"{kind}/{request.path_params['org']}/{request.path_params['name']}"


def repository_of(request: Request, *, write: bool = False) -> Repository:
    """Return the repository that is asked for and may be read, or written; refuse the request otherwise."""
    store = store_of(request)
    store.requests.append(f"{request.method} {request.url.path}")
    repository = store.repositories.get(id_of(request))
    if repository is None:
        raise refusal(404, "RepoNotFound", "no such repository")
    if write and not is_known(request):
        raise refusal(401, "", "a token is needed")
    if repository.gated and not is_known(request):
        raise refusal(403, "GatedRepo", "access to this repository is restricted")
    return repository


def commit_of(request: Request) -> Commit:
    """Return the commit that is asked for; refuse the request where there is none."""
    repository = repository_of(request)
    sha = repository.at(request.path_params.get("revision", "main"))
    if sha is None:
        raise refusal(404, "RevisionNotFound", "no such revision")
    return Commit(id_of(request).partition("/")[2], sha, repository.commits[sha])


def is_known(request: Request) -> bool:
    """Whether the request comes with the token."""
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def refusal(status: int, code: str, message: str, **headers: str) -> HTTPException:
    """Return the exception to raise, with the hub's code for the reason."""
    return HTTPException(status, message, {"X-Error-Code": code, "X-Error-Message": message, **headers})
