"""What FTP relies on in an adapter."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from ftp.components import Adapter
from ftp.errors import ModelError
from ftp.lm.hf_loader import HuggingFaceFiles, ModelFiles
from ftp.testing.conformance.common import fail
from ftp.testing.tiny_model import write_tiny_model
from ftp.types import LoadedModel, ModelRequest


class _TinyModel(HuggingFaceFiles):
    """Loads the model in a directory, on the processor."""

    where: str
    """The directory."""

    def locate(self) -> ModelFiles:
        return ModelFiles(self.where, self.where)


def check_adapter(adapter: Adapter) -> None:
    """Check that `prepare` answers every request, and that `apply` leaves a tiny model with weights to train."""
    _check_requests(adapter)
    needed = {"torch", "transformers", "accelerate", *adapter.requires}
    if all(importlib.util.find_spec(package) for package in needed):
        with tempfile.TemporaryDirectory() as directory:
            write_tiny_model(Path(directory))
            _check_trains(adapter, _TinyModel(where=directory, device="cpu"))


def _check_trains(adapter: Adapter, loader: HuggingFaceFiles) -> None:
    """Check that `apply` returns a model in which something trains, unless the adapter refuses the model."""
    try:
        loaded = loader.load(adapter.prepare(loader.describe()))
        adapted = adapter.apply(loaded)
    except ModelError:
        return
    except Exception as error:
        what = f"apply raised {type(error).__name__} ({error}); what can't work is an ftp.ModelError."
        raise AssertionError(f"{type(adapter).__name__}: {what}") from error
    if not isinstance(adapted, LoadedModel):
        fail(type(adapter), "apply has to return an ftp.LoadedModel.")
    if not any(weight.requires_grad for weight in adapted.model.parameters()):
        fail(type(adapter), "apply returned a model in which nothing trains: no weight has requires_grad.")


def _check_requests(adapter: Adapter) -> None:
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
