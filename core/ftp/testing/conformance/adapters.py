"""What FTP relies on in an adapter."""

from __future__ import annotations

from ftp.components import Adapter
from ftp.errors import ModelError
from ftp.testing.conformance.common import fail
from ftp.types import ModelRequest


def check_adapter(adapter: Adapter) -> None:
    """Check that `prepare` returns a request for every request, or raises a ModelError."""
    layers = frozenset(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    for request in (
        ModelRequest("example/model", linear_modules=layers),
        ModelRequest("example/model", dtype="float32"),
        ModelRequest("example/model", already_quantized="gptq", linear_modules=layers),
    ):
        try:
            prepared = adapter.prepare(request)
        except ModelError:
            continue
        except Exception as error:
            what = f"prepare raised {type(error).__name__} ({error}); a pair that can't work is an ftp.ModelError."
            raise AssertionError(f"{type(adapter).__name__}: {what}") from error
        if not isinstance(prepared, ModelRequest) or prepared.model != request.model:
            fail(type(adapter), "prepare has to return the request for the same model, changed or not.")
        if adapter.prepare(request) != prepared:
            fail(type(adapter), "prepare returns a different request the second time.")
