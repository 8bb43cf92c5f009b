"""A model hub on loopback that answers `huggingface_hub`, `transformers` and `datasets` as the public one does.

It needs starlette and uvicorn. Repositories lie in memory; every upload is a commit. Wire format: the HTTP API that
huggingface_hub 2.4 speaks, and Git LFS's batch API (basic transfer) for weights.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ftp.testing.hub.store import LARGE, TOKEN, Repository, Store

__all__ = ["LARGE", "TOKEN", "Hub", "Repository"]


class Hub(Store):
    """The hub; `url` is its address while it is served."""

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

        from ftp.testing.hub.app import application

        server = uvicorn.Server(uvicorn.Config(application(self), port=0, log_level="error", lifespan="off"))
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
