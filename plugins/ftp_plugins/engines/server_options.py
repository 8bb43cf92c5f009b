"""The options of everything that calls an OpenAI-compatible server."""

from __future__ import annotations

from pydantic import Field

from ftp.options import Options
from ftp.records.replay import is_replay
from ftp_plugins.engines.budget import Prices
from ftp_plugins.engines.client import Server


class ServerOptions(Options):
    """Where a chat model is served, and what its calls may take."""

    base_url: str | None = None
    """Address of the server, such as http://localhost:8000/v1. Default: OpenAI's own."""
    api_key_env: str = Field(default="OPENAI_API_KEY", min_length=1)
    """The environment variable with the key. A server on this machine needs none."""
    concurrency: int = Field(default=8, ge=1)
    """Number of concurrent calls."""
    timeout: float = Field(default=120, gt=0)
    """Seconds to wait for an answer."""
    max_retries: int = Field(default=5, ge=0)
    """Retries after the first attempt when the server is busy, broken or silent."""
    price_per_million_input: float | None = Field(default=None, ge=0)
    """Price of a million tokens sent, in any currency."""
    price_per_million_output: float | None = Field(default=None, ge=0)
    """Price of a million tokens of replies."""
    max_cost: float | None = Field(default=None, gt=0)
    """Maximum amount that may be spent in a run. A call that could exceed it is not made."""
    replay: bool = False
    """Make no calls: take every reply from the run's records or the cache. FTP_REPLAY=1 has the same effect."""

    @property
    def replays(self) -> bool:
        """Whether no call is made."""
        return self.replay or is_replay()

    @property
    def prices(self) -> Prices | None:
        """The prices of the server; None where they are not given."""
        if self.price_per_million_input is None or self.price_per_million_output is None:
            return None
        return Prices(self.price_per_million_input, self.price_per_million_output)

    def server_of(self, model: str) -> Server:
        """Return the server of a model."""
        return Server(model, self.base_url, self.api_key_env, self.timeout, self.max_retries)

    def price_problems(self) -> list[str]:
        """Return what is wrong with the prices."""
        found = []
        if (self.price_per_million_input is None) != (self.price_per_million_output is None):
            found.append("price_per_million_input, price_per_million_output: give both or none")
        if self.max_cost is not None and self.prices is None:
            found.append("max_cost: needs price_per_million_input and price_per_million_output")
        return found

    def server_problems(self, model: str) -> list[str]:
        """Return what is missing on this machine; a replay needs no key."""
        server = self.server_of(model)
        return server.secrets_in_recipe() if self.replays else server.problems()
