"""The cost of calls, and stopping before too much is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftp_plugins.engines.client import Reply

TURN_TOKENS = 16
"""Maximum number of tokens that a chat template may add to a turn."""


class OverBudgetError(Exception):
    """The next call might cost more than what is left."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    input: float
    output: float

    def cost(self, reply: Reply, most: float) -> float:
        """Return the cost of a call by the server's token counts, or the maximum it can have cost without them."""
        if reply.prompt_tokens is None or reply.completion_tokens is None:
            return most
        return (reply.prompt_tokens * self.input + reply.completion_tokens * self.output) / 1e6

    def most(self, request: Mapping[str, Any]) -> float:
        """Return the maximum cost of a call. No tokenizer makes more tokens of a text than it has bytes."""
        parameters = request["parameters"]
        said = parameters.get("max_completion_tokens") or parameters.get("max_tokens") or 0
        texts = [message["content"] for message in request["messages"]] + [str(request["schema"] or "")]
        sent = sum(len(text.encode("utf-8", "surrogatepass")) + TURN_TOKENS for text in texts)
        return (sent * self.input + said * self.output) / 1e6


class Budget:
    """Admits a call only if spent money, calls in progress and the call's maximum cost stay within a limit."""

    def __init__(self, limit: float | None, spent: float = 0) -> None:
        self._limit, self._spent, self._held = limit, spent, 0.0
        self._changed = asyncio.Condition()
        self.is_over = False

    async def hold(self, most: float) -> None:
        """Reserve the maximum cost of a call; wait for calls in progress if that might free enough.

        Raises:
            OverBudgetError: it is too much. No other call is admitted after that.
        """
        async with self._changed:
            while self._limit is not None:
                if self.is_over:
                    raise OverBudgetError
                if self._spent + self._held + most <= self._limit:
                    break
                if not self._held:
                    self.is_over = True
                    self._changed.notify_all()
                    raise OverBudgetError
                await self._changed.wait()
            self._held += most

    async def settle(self, most: float, cost: float) -> None:
        """Replace the reserved maximum by what the finished call cost."""
        async with self._changed:
            self._held = self._held - most if self._held - most > 1e-12 else 0.0
            self._spent += cost
            self._changed.notify_all()
