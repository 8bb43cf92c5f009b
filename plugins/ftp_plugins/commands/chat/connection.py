"""The connection of `ftp chat --server`: what is checked before a server is asked, and limits on what it sends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2

from ftp.errors import FtpError
from ftp.files import first_line

MOST_BYTES = 64 * 2**20
"""The largest answer: 100,000 tokens, each in an event of its own, are about 20 MB."""
SECONDS = 300
"""The longest wait for the next piece of an answer."""


class _Limited(httpx2.SyncByteStream):
    """A stream that ends in an error when it is too long."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for piece in self._inner:
            read += len(piece)
            if read > MOST_BYTES:
                raise httpx2.ReadError(f"the answer has more than {MOST_BYTES >> 20} MB")
            yield piece

    def close(self) -> None:
        self._inner.close()


class _Transport(httpx2.BaseTransport):
    """Passes requests on and limits their answers, which may not be packed: a small one could unpack to a huge one."""

    def __init__(self) -> None:
        self._inner = httpx2.HTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["accept-encoding"] = "identity"
        response = self._inner.handle_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise httpx2.ReadError("the answer is packed, which was not asked for")
        return httpx2.Response(response.status_code, headers=response.headers, stream=_Limited(response.stream))

    def close(self) -> None:
        self._inner.close()


def http_client() -> httpx2.Client:
    """Return a client with these limits. It follows no redirect: key and conversation stay with this server."""
    return httpx2.Client(transport=_Transport(), follow_redirects=False, timeout=SECONDS)


def check_address(url: str) -> None:
    """Raise an error for what is no address of a server, or holds a secret, which is not repeated."""
    try:
        parts = urlsplit(url)
        secret = bool(parts.username or parts.password or parts.query or parts.fragment)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        secret, known = "@" in url or "?" in url, False
    if secret:
        raise FtpError(
            "--server: the address has a user name, a password or a query in it; give the plain address, and the name "
            "of the environment variable with the key to --api-key-env"
        )
    if not known or not url.isprintable() or " " in url:
        raise FtpError(f"--server: {url[:200]!r} is not an address; it is like http://localhost:8000/v1")


def key_in(name: str | None) -> str:
    """Return the key in an environment variable; empty where no variable is named.

    Raises:
        FtpError: it is not set, or the name looks like the key itself, which is not repeated.
    """
    from ftp_plugins.engines.client import VARIABLE

    if name is None:
        return ""
    if not VARIABLE.fullmatch(name):
        raise FtpError(
            "--api-key-env: not the name of an environment variable (capital letters, digits and _); if it is the key "
            "itself, put it into a variable"
        )
    key = os.environ.get(name)
    if not key:
        raise FtpError(f"--api-key-env {name}: the environment variable {name} is not set")
    return key


def failure(url: str, key: str, error: Exception) -> FtpError:
    """Return the error for a call that failed, without the key, which the server may have repeated."""
    import openai

    if isinstance(error, openai.APIStatusError) and 300 <= error.status_code < 400:
        text = "the server redirects elsewhere; give the address that it redirects to, if you trust it"
    elif isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        text = f"can't be reached: {first_line(error.__cause__)}"
    elif isinstance(error, openai.OpenAIError | httpx2.HTTPError):
        text = first_line(error)
    else:
        text = f"the server's answer can't be read ({type(error).__name__})"
    return FtpError(f"{url}: {text.replace(key, '…') if key else text}"[:1000])
