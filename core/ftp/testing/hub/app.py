"""The hub's addresses."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ftp.testing.hub import reading, writing
from ftp.testing.hub.lookup import is_known
from ftp.testing.hub.store import Store


def application(store: Store) -> Starlette:
    """Return the web application that serves these repositories."""
    repository = "/{org}/{name}"
    routes = [
        Route("/api/whoami-v2", _who),
        Route("/api/validate-yaml", _validate, methods=["POST"]),
        Route("/api/repos/create", writing.create, methods=["POST"]),
        Route("/lfs/{oid}", writing.put, methods=["PUT"]),
    ]
    for kind in ("models", "datasets"):
        api, plain = f"/api/{kind}{repository}", repository if kind == "models" else f"/datasets{repository}"
        routes += [
            Route(api, reading.info),
            Route(f"{api}/revision/{{revision}}", reading.info),
            Route(f"{api}/tree/{{revision}}", reading.tree),
            Route(f"{api}/tree/{{revision}}/{{path:path}}", reading.tree),
            Route(f"{api}/paths-info/{{revision}}", reading.paths, methods=["POST"]),
            Route(f"{api}/refs", reading.refs),
            Route(f"{api}/preupload/{{revision}}", writing.preupload, methods=["POST"]),
            Route(f"{api}/commit/{{revision}}", writing.commit, methods=["POST"]),
            Route(f"{plain}/resolve/{{revision}}/{{path:path}}", reading.resolve, methods=["GET", "HEAD"]),
            Route(f"{plain}.git/info/lfs/objects/batch", writing.lfs, methods=["POST"]),
        ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    app.state.store = store
    return app


async def _who(request: Request) -> Response:
    return JSONResponse({"name": "loopback", "type": "user", "orgs": []}, 200 if is_known(request) else 401)


async def _validate(request: Request) -> Response:
    return JSONResponse({"errors": [], "warnings": []})


async def _refused(request: Request, error: Exception) -> Response:
    """Answer a refusal as the public hub does: the reason is in the body, its code in the headers."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)
