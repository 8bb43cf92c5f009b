"""The options of optimizers, and the names by which recipes know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from ftp.options import Options
from ftp.packages import is_installed

OptimizerName = Literal[
    "adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "adafactor", "muon", "lion", "lion_8bit", "paged_lion",
    "paged_lion_8bit", "sgd",
]  # fmt: skip
OTHER_NAMES: Mapping[str, OptimizerName] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_hf", "adam"), "adamw"),
    **dict.fromkeys(("adamw_bnb_8bit", "adamw_torch_8bit"), "adamw_8bit"),
    "paged_adamw_32bit": "paged_adamw",
    "lion_32bit": "lion",
    "paged_lion_32bit": "paged_lion",
}
"""Names of transformers' optimizers, and what they are called here."""
IN_BITSANDBYTES: tuple[OptimizerName, ...] = (
    "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "lion", "lion_8bit", "paged_lion", "paged_lion_8bit",
)  # fmt: skip
_ADAMW: tuple[OptimizerName, ...] = ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit")
_LION: tuple[OptimizerName, ...] = ("lion", "lion_8bit", "paged_lion", "paged_lion_8bit")
READ_BY: Mapping[str, tuple[OptimizerName, ...]] = {
    "betas": (*_ADAMW, *_LION, "muon"),
    "eps": (*_ADAMW, "muon"),
    "momentum": ("muon", "sgd"),
    "adjust_lr_fn": ("muon",),
}
"""The optimizers that read an option."""


def _our_name(value: Any) -> Any:
    if isinstance(value, str) and value in OTHER_NAMES:
        raise ValueError(f"is called '{OTHER_NAMES[value]}' here")
    return value


Name = Annotated[OptimizerName, BeforeValidator(_our_name)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Options):
    """An optimizer with its settings; those that are left out are its library's own."""

    also_known_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("adam_beta1", "adam_beta2", "beta1", "beta2", "optim_args"), "betas"),
        **dict.fromkeys(("adam_epsilon", "epsilon"), "eps"),
        **dict.fromkeys(("use", "optim", "type"), "name"),
    }

    name: Name = "adamw"
    """adamw, muon and sgd are PyTorch's; adafactor is that of transformers, without relative steps. The others are
    those of bitsandbytes: with `8bit` their state takes a quarter of the memory (Dettmers et al. 2021,
    arXiv:2110.02861); with `paged` it moves to the RAM when the GPU is full."""
    betas: tuple[Decay, Decay] | None = None
    """Decay of the running means. Default: 0.9 and 0.999; lion 0.9 and 0.99."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Added to the denominator. Default: 1e-8."""
    momentum: Decay | None = None
    """Decay of the running mean of gradients; for muon and sgd. Default: 0.95 and 0."""
    adjust_lr_fn: Literal["original", "match_rms_adamw"] | None = None
    """How muon scales its updates by the shape of a matrix. match_rms_adamw, the default, makes them as large as
    AdamW's, so that the same rates work (Liu et al. 2025, arXiv:2502.16982)."""

    @model_validator(mode="after")
    def _reads_every_option(self) -> Self:
        for option, names in READ_BY.items():
            if getattr(self, option) is not None and self.name not in names:
                raise ValueError(f"'{option}' is read by {', '.join(names)}, not by '{self.name}'")
        return self

    def problems(self) -> list[str]:
        """List what is missing for this optimizer."""
        if self.name in IN_BITSANDBYTES and not is_installed("bitsandbytes"):
            return [f"optimizer: {self.name} needs bitsandbytes: pip install 'ftp-finetune[qlora]'"]
        return []


def _is_block(value: Any) -> str:
    return "block" if isinstance(value, dict | Optimizer) else "name"


NamedOptimizer = Annotated[Annotated[Name, Tag("name")] | Annotated[Optimizer, Tag("block")], Discriminator(_is_block)]
"""The name of an optimizer, or a block with its settings."""


def optimizer_named(value: OptimizerName | Optimizer) -> Optimizer:
    """Return the block for what a recipe says."""
    return value if isinstance(value, Optimizer) else Optimizer(name=value)
