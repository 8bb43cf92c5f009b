"""What is read from the hub: a repository's description, listings, and files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ftp.testing.hub.lookup import commit_of, refusal, repository_of, store_of
from ftp.testing.hub.store import LARGE


async def info(request: Request) -> Response:
    """Describe a repository at a commit."""
    id, sha, files = commit_of(request)
    siblings = [{"rfilename": path} for path in files]
    known = {"id": id, "modelId": id, "sha": sha, "siblings": siblings, "private": False, "tags": []}
    return JSONResponse({**known, "gated": False, "disabled": False, "downloads": 0, "likes": 0})


async def tree(request: Request) -> Response:
    """List the files and folders below a path."""
    files = commit_of(request).files
    below = request.path_params.get("path", "").strip("/")
    prefix = f"{below}/" if below else ""
    inside = {path: content for path, content in files.items() if path.startswith(prefix)}
    if below and not inside:
        raise refusal(404, "EntryNotFound", "no such path")
    deep = request.query_params.get("recursive", "").lower() in ("true", "1")
    entries = [_entry(p, c) for p, c in inside.items() if deep or "/" not in p.removeprefix(prefix)]
    parts = {prefix + p.removeprefix(prefix).split("/")[0] for p in inside if "/" in p.removeprefix(prefix)}
    if deep:
        parts = {p.rsplit("/", depth)[0] for p in inside for depth in range(1, p.count("/") + 1)}
    return JSONResponse([_folder(part) for part in parts] + entries)


async def paths(request: Request) -> Response:
    """Describe the files and folders that the body names; those that aren't there are left out."""
    files = commit_of(request).files
    asked = _paths_of(request.headers.get("content-type", ""), await request.body())
    folders = [path for path in asked if any(name.startswith(f"{path}/") for name in files)]
    return JSONResponse([_entry(path, files[path]) for path in asked if path in files] + [_folder(p) for p in folders])


async def refs(request: Request) -> Response:
    """List the branches."""
    names = repository_of(request).names
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in names.items()]
    return JSONResponse({"branches": branches, "tags": [], "converts": []})


async def resolve(request: Request) -> Response:
    """Send a file, or the part of it that is asked for; break off half way where the test wants it."""
    _, sha, files = commit_of(request)
    path, cut = request.path_params["path"], store_of(request).cut
    if path not in files:
        raise refusal(404, "EntryNotFound", "no such file", **{"X-Repo-Commit": sha})
    content = files[path]
    headers = {
        "X-Repo-Commit": sha,
        "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
        "Accept-Ranges": "bytes",
    }
    status = 200
    if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        content, status = content[start : end + 1], 206
    length = {"Content-Length": str(len(content))}
    if request.method == "HEAD":
        return Response(headers={**headers, **length})
    if cut.get(path, 0):
        cut[path] -= 1
        return StreamingResponse(_half(content), status, {**headers, **length})
    return Response(content, status, headers)


async def _half(content: bytes) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    raise ConnectionResetError("broken off, as the test wants it")


def _entry(path: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _paths_of(content_type: str, body: bytes) -> list[str]:
    """Return the paths of a request that comes as JSON or as a form."""
    if "json" in content_type:
        paths = json.loads(body)["paths"]
        return [paths] if isinstance(paths, str) else paths
    return parse_qs(body.decode()).get("paths", [])
