"""Optimizers of a training: groups of parameters, the library's classes, and the memory of their state."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from transformers.optimization import Adafactor

import ftp
from ftp.lm.torch_models import causal_model
from ftp_plugins.trainers.optimizers import IN_BITSANDBYTES, Optimizer

SMALLEST_IN_8_BITS = 4096
"""Tensors with fewer elements keep a state of 32 bits in bitsandbytes."""
BLOCK = 256
"""Elements that share a scale in a state of 8 bits."""


def parameter_groups(
    model: Any, decaying: Collection[str], rate: float, weight_decay: float, ratio: float | None
) -> list[dict[str, Any]]:
    """Return the weights that train in groups: with weight decay, and norms and biases without.

    Args:
        decaying: names of the parameters with weight decay.
        ratio: LoRA+ (Hayou et al. 2024, arXiv:2402.12354): how many times as high the rate of the factors B is as that
            of A, in groups of their own; None for one rate. The group with the plain rate comes first.

    Raises:
        ModelError: there is a ratio and no factor B.
    """
    training = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    second = {name for name, _ in training if ".lora_B." in name or ".lora_embedding_B." in name} if ratio else set()
    if ratio and not second:
        raise ftp.ModelError("train.loraplus_lr_ratio: this model has no low-rank factors A and B; remove it")
    groups = []
    for of_second in (False, True) if ratio else (False,):
        own = [(name, weight) for name, weight in training if (name in second) == of_second]
        extra = {"lr": rate * ratio} if ratio and of_second else {}
        for decays in (True, False):
            weights = [weight for name, weight in own if (name in decaying) == decays]
            groups.append({"params": weights, "weight_decay": weight_decay if decays else 0.0, **extra})
    return groups


def make_optimizer(options: Optimizer, model: Any, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    """Return the optimizer of these groups."""
    given = {"betas": options.betas, "eps": options.eps, "momentum": options.momentum}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if options.name == "adamw":
        return torch.optim.AdamW(groups, lr=rate, fused=True, **settings)
    if options.name == "adafactor":
        # PyTorch's multiplies the rate by the size of the weights, so that none of the usual rates would do.
        adafactor: torch.optim.Optimizer = Adafactor(groups, lr=rate, scale_parameter=False, relative_step=False)
        return adafactor
    if options.name == "sgd":
        return torch.optim.SGD(groups, lr=rate, **settings)
    if options.name == "muon":
        return _muon(options, model, groups, rate)
    return _of_bitsandbytes(options, model, groups, rate, settings)


def _of_bitsandbytes(
    options: Optimizer, model: Any, groups: list[dict[str, Any]], rate: float, settings: dict[str, Any]
) -> torch.optim.Optimizer:
    import bitsandbytes  # its import takes seconds

    paged = options.name.startswith("paged") and model.device.type != "cpu"
    kind = bitsandbytes.optim.Lion if "lion" in options.name else bitsandbytes.optim.AdamW
    bits = 8 if options.name.endswith("8bit") else 32
    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    manager.initialize()  # it is one for the whole process and remembers what earlier trainings told it
    for module in embeddings_of(model):
        # Rare tokens get few and large gradients, for which 8 bits are too coarse (arXiv:2110.02861, section 2.3).
        manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=rate, weight_decay=0.0, optim_bits=bits, is_paged=paged, **settings
    )
    return optimizer


def embeddings_of(model: Any) -> list[torch.nn.Embedding]:
    """Return the embeddings whose weights train."""
    found = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    return [module for module in found if module.weight.requires_grad]


# --- Muon


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices of hidden layers and AdamW for everything else, as one optimizer."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.both = (muon, adamw)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Give both optimizers this one's groups and state, which the schedule and checkpoints know."""
        first = len(self.both[0].param_groups)
        groups = self.param_groups[:first], self.param_groups[first:]
        for optimizer, own in zip(self.both, groups, strict=True):
            optimizer.param_groups, optimizer.state = own, self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with both."""
        for optimizer in self.both:
            optimizer.step()


def _muon(options: Optimizer, model: Any, groups: list[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    matrices = _hidden_matrices(model)
    split = [
        [{**group, "params": [w for w in group["params"] if (id(w) in matrices) == hidden]} for group in groups]
        for hidden in (True, False)
    ]
    momentum: dict[str, Any] = {} if options.momentum is None else {"momentum": options.momentum}
    muon = torch.optim.Muon(
        split[0], lr=rate, weight_decay=0.0, adjust_lr_fn=options.adjust_lr_fn or "match_rms_adamw", **momentum
    )
    given = {"betas": options.betas, "eps": options.eps}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    adamw = torch.optim.AdamW(split[1], lr=rate, **settings)
    return MuonWithAdamW(muon, adamw)


def _hidden_matrices(model: Any) -> set[int]:
    """Return the ids of the matrices that train, without those of the token embeddings and the output head."""
    causal = causal_model(model)
    ends = (causal.get_input_embeddings(), causal.get_output_embeddings())
    outer = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    return {id(w) for w in model.parameters() if w.requires_grad and w.ndim == 2 and id(w) not in outer}


# --- memory


def state_bytes(options: Optimizer, model: Any) -> int:
    """Return the bytes of the optimizer's state for the weights that train."""
    training = [weight for weight in model.parameters() if weight.requires_grad]
    in_32_bits = {id(module.weight) for module in embeddings_of(model)}
    matrices = _hidden_matrices(model) if options.name == "muon" else set()
    one = functools.partial(_bytes_of, options, in_32_bits, matrices)
    return math.ceil(sum(map(one, training)))


def _bytes_of(options: Optimizer, in_32_bits: Collection[int], matrices: Collection[int], weight: Any) -> float:
    count, size = weight.numel(), weight.element_size()
    if options.name in IN_BITSANDBYTES:
        values = 1 if "lion" in options.name else 2
        small = count < SMALLEST_IN_8_BITS or id(weight) in in_32_bits
        in_8_bits = options.name.endswith("8bit") and not small
        return float(values * (count + 4 * math.ceil(count / BLOCK) if in_8_bits else 4 * count))
    if options.name == "adafactor":
        return float(size * (_factored(weight.shape) if weight.ndim > 1 else count))
    if options.name == "sgd":
        return float(size * count if options.momentum else 0)
    return float(size * count * (1 if id(weight) in matrices else 2))


def _factored(shape: Sequence[int]) -> int:
    """Return the values of a factored second moment: of the rows and of the columns."""
    *outer, rows, columns = shape
    return math.prod(outer) * (rows + columns)
