"""Adapters by row: LoRA layers that answer each row with its own, and peft's selection of one for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional

UNMIXABLE = ("use_dora", "target_parameters", "trainable_token_indices", "modules_to_save")
"""Options of peft whose weights apply to a whole batch."""


class Adapters:
    """The adapters of a model, any of which may answer a row.

    Args:
        model: a `peft.PeftModel`, or a model without adapters.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._configs: dict[str, Any] = getattr(model, "peft_config", {})
        self._parts: list[tuple[str, torch.Tensor | None]] = []
        self._forwards: dict[Any, Callable[..., Any]] = {}
        self._known: tuple[str, ...] = ()
        self._mix = True

    @property
    def mix(self) -> bool:
        """Whether rows of different adapters can be in one batch: every adapted layer is a plain LoRA layer."""
        self._look()
        return self._mix

    @property
    def forwards(self) -> dict[Any, Callable[..., Any]]:
        """What replaces the forward of each plain LoRA layer; on other layers peft's selection holds for all rows."""
        self._look()
        return self._forwards

    def _look(self) -> None:
        if self._known == tuple(self._configs):
            return
        self._known = tuple(self._configs)
        plain = not any(getattr(config, name, None) for config in self._configs.values() for name in UNMIXABLE)
        adapted = _adapted_layers(self._model)
        replaced = [layer for name, layer in adapted.items() if _is_plain_lora(name, layer)]
        self._mix = plain and len(replaced) == len(adapted)
        self._forwards = {layer: RowLoRA(layer, self._parts) for layer in replaced}

    def route(self, names: Sequence[str | None], device: Any) -> None:
        """Have the next forward pass answer each token with the adapter of its name or, for None, without one.

        Args:
            names: one for each token. The tokens behind them are filling, and may get any adapter.
        """
        self._parts.clear()
        kinds = set(names)
        for kind in sorted(name for name in kinds if name is not None):
            places = [at for at, name in enumerate(names) if name == kind]
            self._parts.append((kind, None if len(kinds) == 1 else torch.tensor(places, device=device)))

    @contextlib.contextmanager
    def selected(self, name: str | None) -> Iterator[None]:
        """Have peft answer with one adapter inside the block or, for None, without one."""
        before = active_adapter(self._model) if self._configs else None
        if name == before or not self._configs:
            yield
        elif name is None:
            with self._model.disable_adapter():
                yield
        else:
            self._model.set_adapter(name)
            try:
                yield
            finally:
                if before is not None:
                    self._model.set_adapter(before)


def active_adapter(model: Any) -> str | None:
    """Return the name of the adapter that a model answers with; None for a model without one, or with it disabled."""
    if not hasattr(model, "peft_config"):
        return None
    if any(layer.disable_adapters for layer in _adapted_layers(model).values()):
        return None
    return str(model.active_adapter)


class RowLoRA:
    """Forward of a plain LoRA layer: y = base(x) + scale (x A^T) B^T, the second part in the type of A and B.

    That is what peft computes in evaluation mode, for each token with its row's adapter, and without peft's
    bookkeeping at every call. Folding an adapter into the weights would be faster still, but in bfloat16 it rounds the
    adapter away in part: the answers would be those of another model than the one that was trained.

    Args:
        parts: the adapters of the tokens in this pass with their places, int64 [tokens]; None for all tokens.
    """

    def __init__(self, module: Any, parts: Sequence[tuple[str, torch.Tensor | None]]) -> None:
        self.base, self.parts = module.get_base_layer(), parts
        self.factors = {
            name: (module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
            for name in module.lora_A
        }

    def __call__(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        y = self.base(x)
        for name, places in self.parts:
            if name not in self.factors:
                continue
            low, high, scale = self.factors[name]
            own = x if places is None else x[:, places]
            delta = functional.linear(functional.linear(own.to(low.dtype), low), high)
            if places is None:
                y = torch.add(y, delta, alpha=scale).to(y.dtype)
            else:
                y[:, places] = torch.add(y[:, places], delta, alpha=scale).to(y.dtype)
        return y


def _adapted_layers(model: Any) -> dict[str, Any]:
    """Return the layers that peft has put its own in place of, by path."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


def _is_plain_lora(path: str, layer: Any) -> bool:
    """Return whether a layer is peft's LoRA on a linear layer that every token goes through, without a variant."""
    from peft.tuners import lora

    kinds = (lora.Linear, getattr(lora, "Linear4bit", lora.Linear))  # the second where bitsandbytes is installed
    if type(layer) not in kinds:
        return False
    plain = not layer.merged and not layer.lora_variant and "experts" not in path.split(".")
    return plain and all(factor.bias is None for factor in layer.lora_B.values())
