"""HTTP for services: limits on the time and the size of every answer, and no redirect to another host."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import httpx2

REFUSED = "x-ftp-refused"
"""Header of the responses that replace rejected ones."""
MOST_BYTES = 4 * 2**20
"""The largest answer, packed or unpacked; a verdict takes a few kilobytes."""


class LimitedTransport(httpx2.AsyncBaseTransport):
    """Passes requests on and rejects answers that are too late, too large or send elsewhere.

    Args:
        seconds: for one attempt, from sending it to the last byte of its answer. httpx2's own limits are for each
            read, so that a server which sends a byte now and then is waited for forever.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, seconds: float) -> None:
        self._inner, self._seconds = inner, seconds

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and read its answer whole.

        Raises:
            httpx2.ReadTimeout: the answer was not there in time.
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await self._answer(request)
        except TimeoutError:
            raise httpx2.ReadTimeout(f"no whole answer within {self._seconds:g} s", request=request) from None

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        response.request = request
        try:
            target = response.headers.get("location")
            if 300 <= response.status_code < 400 and target is not None:
                found = request.url.join(target)
                if found.host != request.url.host:
                    return _refusal(request, "redirect", f"redirects to another host, {found.host[:100]!r}")
                if _origin(found) not in (_origin(request.url), ("https", 443)):
                    address = f"{found.scheme}://{found.host}:{_origin(found)[1]}"
                    return _refusal(request, "redirect", f"redirects to another server, {address[:100]!r}")
            if "," in response.headers.get("content-encoding", ""):
                return _refusal(request, "size", "the answer is packed more than once")
            # Decoded piece by piece, so that a small answer that unpacks to a huge one is noticed on the way. A piece
            # of one packed twice could unpack to all memory.
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    return _refusal(request, "size", f"the answer has more than {MOST_BYTES >> 20} MB")
        finally:
            await response.aclose()
        kept = [(k, v) for k, v in response.headers.multi_items() if k not in ("content-encoding", "content-length")]
        return httpx2.Response(response.status_code, headers=kept, content=bytes(body), request=request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


def _origin(url: httpx2.URL) -> tuple[str, int | None]:
    return url.scheme, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _refusal(request: httpx2.Request, why: Literal["redirect", "size"], what: str) -> httpx2.Response:
    """Return a response with a status that no client retries: 421, misdirected request."""
    return httpx2.Response(421, headers={REFUSED: why}, json={"error": {"message": what}}, request=request)


def http_client(seconds: float) -> Any:
    """Return an `httpx2.AsyncClient` with these limits."""
    return httpx2.AsyncClient(transport=LimitedTransport(httpx2.AsyncHTTPTransport(), seconds), follow_redirects=True)
