"""A model hub on loopback that answers `huggingface_hub`, `transformers` and `datasets` as the public one does.

It needs starlette and uvicorn. Repositories lie in memory; every upload is a commit. Wire format: the HTTP API that
huggingface_hub 2.4 speaks, and Git LFS's batch API (basic transfer) for weights.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

TOKEN = "hf_loopback"
"""What has to be sent as the token to write, and to read a gated repository."""
LARGE = (".safetensors", ".bin", ".parquet")
"""What is uploaded by Git LFS."""


@dataclass
class Repository:
    """A model or a data set with its history."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each commit, by path."""
    names: dict[str, str] = field(default_factory=dict)
    """The commit that each branch and tag is at."""
    gated: bool = False
    """Whether only those with the token may read it."""

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put these files in the place of all others and return the commit's hash."""
        listing = [(path, hashlib.sha256(content).hexdigest()) for path, content in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([listing, len(self.commits)]).encode()).hexdigest()
        self.commits[sha], self.names[branch] = dict(files), sha
        return sha

    def at(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit's hash; None if there is none."""
        return self.names.get(revision) or (revision if revision in self.commits else None)


class Hub:
    """The hub; `url` is its address while it is served."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        """By `models/ORG/NAME` and `datasets/ORG/NAME`."""
        self.requests: list[str] = []
        """What was asked, as `GET /path`, in order."""
        self.cut: dict[str, int] = {}
        """How many more downloads of a file, by its path in the repository, break off half way."""
        self.uploads: dict[str, bytes] = {}
        """What came by LFS, by SHA-256."""

    def add(self, id: str, directory: Path, *, kind: str = "models", branch: str = "main") -> str:
        """Commit the files of a directory to a repository, which is made where it isn't there; return the hash."""
        files = {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}
        return self.repositories.setdefault(f"{kind}/{id}", Repository()).commit(files, branch)

    def environment(self, home: Path) -> dict[str, str]:
        """Return the variables by which another process uses this hub alone; its caches lie below `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    @contextlib.contextmanager
    def served(self) -> Iterator[Hub]:
        """Serve it on a free port of loopback, in a thread."""
        import uvicorn

        server = uvicorn.Server(uvicorn.Config(_application(self), port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the hub on loopback did not start")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)


def _application(hub: Hub) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Route

    answers = _Answers(hub)
    repository = "/{org}/{name}"
    routes = [
        Route("/api/whoami-v2", answers.who),
        Route("/api/validate-yaml", answers.validate, methods=["POST"]),
        Route("/api/repos/create", answers.create, methods=["POST"]),
    ]
    for kind in ("models", "datasets"):
        api, plain = f"/api/{kind}{repository}", repository if kind == "models" else f"/datasets{repository}"
        routes += [
            Route(api, answers.info),
            Route(f"{api}/revision/{{revision}}", answers.info),
            Route(f"{api}/tree/{{revision}}", answers.tree),
            Route(f"{api}/tree/{{revision}}/{{path:path}}", answers.tree),
            Route(f"{api}/paths-info/{{revision}}", answers.paths, methods=["POST"]),
            Route(f"{api}/refs", answers.refs),
            Route(f"{api}/preupload/{{revision}}", answers.preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", answers.commit, methods=["POST"]),
            Route(f"{plain}/resolve/{{revision}}/{{path:path}}", answers.resolve, methods=["GET", "HEAD"]),
            Route(f"{plain}.git/info/lfs/objects/batch", answers.lfs, methods=["POST"]),
        ]
    routes += [Route("/lfs/{oid}", answers.put, methods=["PUT"])]
    return Starlette(routes=routes)


class _Answers:
    """One method for each thing that is asked."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    async def who(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"name": "loopback", "type": "user", "orgs": []}, 200 if _is_known(request) else 401)

    async def validate(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        return JSONResponse({"errors": [], "warnings": []})

    async def create(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        asked = await request.json()
        kind, id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'loopback'}/{asked['name']}"
        if not _is_known(request):
            return _refused(401, "", "a token is needed")
        url = f"{self.hub.url}/{'' if kind == 'models' else f'{kind}/'}{id}"
        if f"{kind}/{id}" in self.hub.repositories:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        self.hub.repositories[f"{kind}/{id}"] = Repository()
        self.hub.repositories[f"{kind}/{id}"].commit({".gitattributes": b""})
        return JSONResponse({"url": url, "name": id, "id": id})

    async def info(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        found = self._files(request)
        if not isinstance(found, tuple):
            return found
        id, sha, files = found
        siblings = [{"rfilename": path} for path in files]
        known = {"id": id, "modelId": id, "sha": sha, "siblings": siblings, "private": False, "tags": []}
        return JSONResponse({**known, "gated": False, "disabled": False, "downloads": 0, "likes": 0})

    async def tree(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        found = self._files(request)
        if not isinstance(found, tuple):
            return found
        below = request.path_params.get("path", "").strip("/")
        prefix = f"{below}/" if below else ""
        inside = {path: content for path, content in found[2].items() if path.startswith(prefix)}
        if below and not inside:
            return _refused(404, "EntryNotFound", "no such path")
        deep = request.query_params.get("recursive", "").lower() in ("true", "1")
        entries = [_entry(p, c) for p, c in inside.items() if deep or "/" not in p.removeprefix(prefix)]
        parts = {prefix + p.removeprefix(prefix).split("/")[0] for p in inside if "/" in p.removeprefix(prefix)}
        if deep:
            parts = {p.rsplit("/", depth)[0] for p in inside for depth in range(1, p.count("/") + 1)}
        return JSONResponse(
            [{"type": "directory", "path": part, "oid": "0" * 40, "size": 0} for part in parts] + entries
        )

    async def paths(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        found, form = self._files(request), await request.body()
        if not isinstance(found, tuple):
            return found
        asked = _paths_of(request.headers.get("content-type", ""), form)
        files = [_entry(path, found[2][path]) for path in asked if path in found[2]]
        folders = [path for path in asked if any(name.startswith(f"{path}/") for name in found[2])]
        return JSONResponse(files + [{"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders])

    async def refs(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        repository = self._repository(request)
        if not isinstance(repository, Repository):
            return repository
        branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repository.names.items()]
        return JSONResponse({"branches": branches, "tags": [], "converts": []})

    async def resolve(self, request: Request) -> Response:
        from starlette.responses import Response, StreamingResponse

        found = self._files(request)
        if not isinstance(found, tuple):
            return found
        path = request.path_params["path"]
        if path not in found[2]:
            return _refused(404, "EntryNotFound", "no such file", **{"X-Repo-Commit": found[1]})
        content = found[2][path]
        headers = {
            "X-Repo-Commit": found[1],
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        start, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content, status = content[start : end + 1], 206
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(content))})
        if self.hub.cut.get(path, 0):
            self.hub.cut[path] -= 1

            async def half() -> Any:
                yield content[: len(content) // 2]
                raise ConnectionResetError("broken off, as the test wants it")

            return StreamingResponse(half(), status, {**headers, "Content-Length": str(len(content))})
        return Response(content, status, headers)

    async def preupload(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        repository, asked = self._repository(request, write=True), await request.json()
        if not isinstance(repository, Repository):
            return repository
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in asked["files"]
        ]
        return JSONResponse({"files": files})

    async def lfs(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        asked = await request.json()
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}}
            for one in asked["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def put(self, request: Request) -> Response:
        from starlette.responses import Response

        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            return _refused(400, "", "the content does not have this SHA-256")
        self.hub.uploads[request.path_params["oid"]] = content
        return Response()

    async def commit(self, request: Request) -> Response:
        from starlette.responses import JSONResponse

        repository, lines = self._repository(request, write=True), (await request.body()).splitlines()
        if not isinstance(repository, Repository):
            return repository
        branch = request.path_params["revision"]
        before = repository.at(branch)
        if before is None:
            return _refused(404, "RevisionNotFound", "no such revision")
        files = dict(repository.commits[before])
        for line in map(json.loads, lines):
            value = line["value"]
            match line["key"]:
                case "file":
                    text = value["content"]
                    files[value["path"]] = (
                        base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()
                    )
                case "lfsFile":
                    files[value["path"]] = self.hub.uploads[value["oid"]]
                case "deletedFile":
                    files.pop(value["path"], None)
                case "deletedFolder":
                    files = {p: c for p, c in files.items() if not p.startswith(f"{value['path'].rstrip('/')}/")}
        sha, id = repository.commit(files, branch), self._id(request)
        prefix = "" if id.startswith("models/") else "datasets/"
        url = f"{self.hub.url}/{prefix}{id.partition('/')[2]}/commit/{sha}"
        return JSONResponse({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _id(self, request: Request) -> str:
        kind = "datasets" if request.url.path.startswith(("/api/datasets/", "/datasets/")) else "models"
        return f"{kind}/{request.path_params['org']}/{request.path_params['name']}"

    def _repository(self, request: Request, *, write: bool = False) -> Repository | Response:
        self.hub.requests.append(f"{request.method} {request.url.path}")
        repository = self.hub.repositories.get(self._id(request))
        if repository is None:
            return _refused(404, "RepoNotFound", "no such repository")
        if write and not _is_known(request):
            return _refused(401, "", "a token is needed")
        if repository.gated and not _is_known(request):
            return _refused(403, "GatedRepo", "access to this repository is restricted")
        return repository

    def _files(self, request: Request) -> tuple[str, str, dict[str, bytes]] | Response:
        repository = self._repository(request)
        if not isinstance(repository, Repository):
            return repository
        sha = repository.at(request.path_params.get("revision", "main"))
        if sha is None:
            return _refused(404, "RevisionNotFound", "no such revision")
        return self._id(request).partition("/")[2], sha, repository.commits[sha]


def _is_known(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def _refused(status: int, code: str, message: str, **headers: str) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message, **headers})


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _paths_of(content_type: str, body: bytes) -> list[str]:
    """Return the paths of a request that comes as JSON or as a form."""
    from urllib.parse import parse_qs

    if "json" in content_type:
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else paths
    return parse_qs(body.decode()).get("paths", [])
