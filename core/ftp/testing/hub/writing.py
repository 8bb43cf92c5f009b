"""What is written to the hub: new repositories, uploads by LFS, and commits."""

from __future__ import annotations

import base64
import hashlib
import json

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ftp.testing.hub.lookup import id_of, is_known, refusal, repository_of, store_of
from ftp.testing.hub.store import LARGE, Repository


async def create(request: Request) -> Response:
    """Make a repository with one commit."""
    store, asked = store_of(request), await request.json()
    kind, id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'loopback'}/{asked['name']}"
    if not is_known(request):
        raise refusal(401, "", "a token is needed")
    url = f"{store.url}/{'' if kind == 'models' else f'{kind}/'}{id}"
    if f"{kind}/{id}" in store.repositories:
        return JSONResponse({"error": "You already created this repo", "url": url}, 409)
    private = asked.get("visibility") == "private" or bool(asked.get("private"))
    store.repositories[f"{kind}/{id}"] = Repository(private=private)
    store.repositories[f"{kind}/{id}"].commit({".gitattributes": b""})
    return JSONResponse({"url": url, "name": id, "id": id})


async def preupload(request: Request) -> Response:
    """Say of each file how it has to be uploaded."""
    asked = await request.json()
    repository_of(request, write=True)
    files = [
        {"path": path, "uploadMode": "lfs" if path.endswith(LARGE) else "regular", "shouldIgnore": False}
        for path in (file["path"] for file in asked["files"])
    ]
    return JSONResponse({"files": files})


async def lfs(request: Request) -> Response:
    """Say where large files go."""
    asked, url = await request.json(), store_of(request).url
    objects = [
        {**one, "actions": {"upload": {"href": f"{url}/lfs/{one['oid']}", "header": {}}}} for one in asked["objects"]
    ]
    return JSONResponse({"transfer": "basic", "objects": objects})


async def put(request: Request) -> Response:
    """Take a large file."""
    content, oid, store = await request.body(), request.path_params["oid"], store_of(request)
    if store.refused_uploads:
        store.refused_uploads -= 1
        raise refusal(400, "", "broken off, as the test wants it")
    if hashlib.sha256(content).hexdigest() != oid:
        raise refusal(400, "", "the content does not have this SHA-256")
    store.uploads[oid] = content
    return Response()


async def commit(request: Request) -> Response:
    """Commit what the lines of the body say: files added, by LFS too, files and folders deleted."""
    lines, store = (await request.body()).splitlines(), store_of(request)
    repository, branch = repository_of(request, write=True), request.path_params["revision"]
    before = repository.at(branch)
    if before is None:
        raise refusal(404, "RevisionNotFound", "no such revision")
    files = dict(repository.commits[before])
    for line in map(json.loads, lines):
        value = line["value"]
        match line["key"]:
            case "file":
                text = value["content"]
                files[value["path"]] = base64.b64decode(text) if value.get("encoding") == "base64" else text.encode()
            case "lfsFile":
                files[value["path"]] = store.uploads[value["oid"]]
            case "deletedFile":
                files.pop(value["path"], None)
            case "deletedFolder":
                files = {p: c for p, c in files.items() if not p.startswith(f"{value['path'].rstrip('/')}/")}
    sha, id = repository.commit(files, branch), id_of(request)
    prefix = "" if id.startswith("models/") else "datasets/"
    url = f"{store.url}/{prefix}{id.partition('/')[2]}/commit/{sha}"
    return JSONResponse({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})
