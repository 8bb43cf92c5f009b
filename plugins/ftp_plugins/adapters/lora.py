"""Low-rank adapters."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.errors import did_you_mean
from ftp_plugins.adapters.layers import Layers, layer_numbers

EXPERT_NAMES = frozenset(("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"))
"""In a mixture, peft uses these targets for parts of the experts and the router, as they were called in older files."""


class LoRA(ftp.Adapter):
    """Low-rank adapters beside frozen weights (Hu et al. 2021, arXiv:2106.09685). Usual learning rate: 5e-5 to 2e-4."""

    requires: ClassVar[tuple[str, ...]] = ("torch", "peft", "safetensors")
    learning_rates: ClassVar[tuple[float, float] | None] = (5e-5, 2e-4)
    also_known_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("lora_r", "lora_rank", "rank"), "r"),
        **dict.fromkeys(("target_modules", "lora_target_modules", "lora_target", "lora_target_linear"), "targets"),
        "lora_alpha": "alpha",
        "lora_dropout": "dropout",
        "use_rslora": "rslora",
        "use_dora": "dora",
        "init_lora_weights": "init",
        "layers_to_transform": "layers",
        "lora_modules_to_save": "modules_to_save",
    }

    r: int = Field(default=16, ge=1)
    """Rank."""
    alpha: float = Field(default=32, gt=0)
    """Scale: the update is multiplied by alpha / r (alpha / sqrt(r) with rslora)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: str | list[str] = "all-linear"
    """Layers that get an adapter: all-linear, which leaves out the output head; a list of names such as q_proj; or a
    regular expression for whole paths, such as `.*\\.(0|1)\\.self_attn\\.[qv]_proj`."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = {}
    """Ranks that differ from `r`, by name, end of a path, or regular expression: {down_proj: 32}."""
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Values of `alpha` for single layers, written like `rank_pattern`."""
    layers: Layers = "all"
    """Decoder layers that get adapters: all, the last ones (`last 8`), or a list of numbers that begin at 0."""
    experts: bool = False
    """Also put adapters on the weights of a mixture's experts, which are not linear layers: one of rank r for each
    expert."""
    modules_to_save: list[str] = []
    """Modules that are trained in full and saved with the adapter, such as lm_head. Their weights are loaded as
    float32."""
    rslora: bool = False
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Weight-decomposed update (Liu et al. 2024, arXiv:2402.09353)."""
    init: Literal["default", "gaussian", "pissa", "olora", "loftq"] = "default"
    """Initial weights. default, gaussian: A is random, B is zero. pissa, olora: the principal part of the base weights,
    which trains in their place (arXiv:2404.02948, arXiv:2406.01775). loftq, for qlora: an approximation of the 4-bit
    quantisation error (arXiv:2310.08659)."""
    pissa_iterations: int | None = Field(default=None, ge=0)
    """For pissa: iterations of a fast, approximate SVD (16 is usual for large models). None: an exact SVD."""

    def problems(self) -> list[str]:
        found = []
        if self.pissa_iterations is not None and self.init != "pissa":
            found.append("pissa_iterations: applies only to init: pissa; remove it")
        if self.init == "loftq" and not self._in_4_bits:
            found.append("init: loftq compensates for what 4 bits lose; use qlora, or init: pissa")
        if self.experts:
            # An expert's adapter is added to its weight before the product, so there is no input of its own to drop.
            for option, on in (("dropout", self.dropout), ("dora", self.dora)):
                if on:
                    found.append(f"experts: adapters on experts can't have {option}; remove one of the two")
            if self.init not in ("default", "gaussian"):
                found.append(f"experts: adapters on experts can't begin as {self.init}; set init: default")
        for name in ("targets", "rank_pattern", "alpha_pattern"):
            for pattern in (getattr(self, name),) if isinstance(getattr(self, name), str) else getattr(self, name):
                try:
                    re.compile(pattern)
                except re.error as error:
                    found.append(f"{name}: '{pattern}' is not a regular expression: {error}")
        if self._is_pattern and re.fullmatch(r"[\w-]+", str(self.targets)):
            found.append(f"targets: '{self.targets}' is no layer's whole path; write all-linear, or a list of names")
        if self._is_pattern and self.layers != "all":
            found.append("layers: applies to targets given by name; put the numbers into the regular expression")
        if isinstance(self.targets, list):
            found += [
                f"modules_to_save: {m} is among the targets too" for m in self.modules_to_save if m in self.targets
            ]
        return found

    def update_scale(self) -> tuple[float, str]:
        """Return the factor of B·A relative to the usual 2, that of alpha = 2r.

        Adam's step doesn't depend on the size of the gradient, so a rate moves the weights in proportion to the factor.
        The range of rates is that of Hu et al. 2021 (arXiv:2106.09685) and Dettmers et al. 2023 (arXiv:2305.14314):
        2e-4, and half of it for large models; ten times that of full training, as Schulman et al. 2025 ("LoRA Without
        Regret", Thinking Machines Lab) find too. LoRA is more sensitive to the rate than full training (Biderman et al.
        2024, arXiv:2405.09673).
        """
        scale = self.alpha / (math.sqrt(self.r) if self.rslora else self.r)
        formula = "alpha/sqrt(r) (rslora)" if self.rslora else "alpha/r"
        return scale / 2, f"updates are multiplied by {formula} = {scale:.3g}, where 2 is usual"

    @property
    def _in_4_bits(self) -> bool:
        return False

    @property
    def _is_pattern(self) -> bool:
        return isinstance(self.targets, str) and self.targets != "all-linear"

    def prepare(self, request: ftp.ModelRequest) -> ftp.ModelRequest:
        if request.layers is not None:
            layer_numbers(self.layers, request.layers)
        if isinstance(self.targets, list) and request.linear_modules is not None:
            for target in self.targets:
                if target.rsplit(".", 1)[-1] not in request.linear_modules:
                    raise ftp.ModelError(
                        f"{self.used_as}: {request.model} has no linear layer '{target}'"
                        f"{did_you_mean(target, request.linear_modules)}"
                    )
                if request.experts and target.rsplit(".", 1)[-1] in EXPERT_NAMES:
                    raise ftp.ModelError(
                        f"{self.used_as}: peft takes '{target}' for a weight of the experts of {request.model}; say "
                        "experts: true for those, and leave it out of the targets"
                    )
        if self.experts and request.modules is not None and not request.experts:
            raise ftp.ModelError(f"{self.used_as}: {request.model} has no experts; remove `experts`")
        if request.already_quantized and self.init in ("pissa", "olora"):
            raise ftp.ModelError(
                f"{self.used_as}: init: {self.init} changes the base weights, and those of {request.model} are stored "
                f"quantised ({request.already_quantized}); set init: default"
            )
        if not self.modules_to_save:
            # pissa and olora move a part of the weights into the adapter, and peft's DoRA reads them for its norms.
            return dataclasses.replace(request, frozen=self.init in ("default", "gaussian") and not self.dora)
        self._check_modules(request)
        # They train like the weights of full training, whose steps are smaller than bfloat16 can add.
        return dataclasses.replace(request, dtype="float32" if request.dtype == "auto" else request.dtype)

    def _check_modules(self, request: ftp.ModelRequest) -> None:
        for module in self.modules_to_save:
            where = f"{self.used_as}: modules_to_save: "
            if request.modules is not None and module not in request.modules:
                known = did_you_mean(module, request.modules)
                raise ftp.ModelError(f"{where}{request.model} has no module '{module}'{known}")
            if module in (request.linear_modules or ()):
                if self.targets == "all-linear":
                    raise ftp.ModelError(f"{where}'{module}' gets an adapter as one of all-linear; name other targets")
                if self._in_4_bits or request.already_quantized:
                    raise ftp.ModelError(f"{where}'{module}' is quantised and can't be trained in full")

    def apply(self, loaded: ftp.LoadedModel) -> ftp.LoadedModel:
        import peft

        from ftp_plugins.adapters.torch_modules import is_tied, look_like_layers, new_rows, path_of

        base = loaded.model
        self._check_rank(base)
        base.requires_grad_(False)
        ends = [path_of(base, end) for end in (base.get_input_embeddings(), base.get_output_embeddings())]
        trains_an_end = any(path.rsplit(".", 1)[-1] in self.modules_to_save for path in ends)
        config = peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights="gaussian" if self.init == "gaussian" else True,
            modules_to_save=list(self.modules_to_save) or None,
            ensure_weight_tying=trains_an_end and is_tied(base),
            trainable_token_indices=new_rows(loaded, self.modules_to_save),
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=dict(self.alpha_pattern),
            **self._where(loaded),
        )
        notes = self._notes(loaded)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys")  # an error, below
            model = peft.get_peft_model(base, config)
        self._check_patterns(model)
        look_like_layers(model)
        if self.init in ("pissa", "olora"):
            from ftp_plugins.adapters.torch_lora_init import move_into_adapter

            move_into_adapter(model, self.init, self.pissa_iterations)
        elif self.init == "loftq":
            if loaded.unquantized is None:
                raise ftp.ModelError(
                    f"{self.used_as}: {loaded.name} can't be loaded with plain weights, as loftq needs"
                )
            from ftp_plugins.adapters.torch_lora_init import approximate_quantization_error

            approximate_quantization_error(model, loaded.unquantized())
        return dataclasses.replace(loaded, model=model, notes=(*loaded.notes, *notes))

    def _check_rank(self, base: Any) -> None:
        """Refuse a rank beyond every layer's width: it can express no more, and takes memory without end."""
        layers = [module for module in base.modules() if module is not base.get_output_embeddings()]
        widths = [getattr(module, side, 0) for module in layers for side in ("in_features", "out_features")]
        for name, r in {"r": self.r, **{f"rank_pattern.{key}": r for key, r in self.rank_pattern.items()}}.items():
            if r > max(widths, default=r):
                raise ftp.ModelError(f"adapter.{name}: {r:,} is more than the widest layer's {max(widths):,}")

    def _check_patterns(self, model: Any) -> None:
        """Refuse a rank or alpha that no adapted layer takes: peft would leave it unread."""
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import get_pattern_key

        adapted = (path for path, module in model.named_modules() if isinstance(module, LoraLayer))
        paths = [path.removeprefix("base_model.model.") for path in adapted]
        for name in ("rank_pattern", "alpha_pattern"):
            keys = list(getattr(self, name))
            taken = {get_pattern_key(keys, path) for path in paths}
            for key in keys:
                if key not in taken:
                    raise ftp.ModelError(
                        f"{self.used_as}: {name}: no adapted layer takes '{key}', or an earlier key takes its layers; "
                        f"a layer's path is like {paths[0]}"
                    )

    def _where(self, loaded: ftp.LoadedModel) -> dict[str, Any]:
        """Return peft's options that select what gets an adapter."""
        from ftp.lm.torch_models import expert_weights
        from ftp_plugins.adapters.torch_modules import decoder_layers

        base, request = loaded.model, loaded.request
        where: dict[str, Any] = {"target_modules": self.targets}
        if self._is_pattern:
            self._check_targets(base)
        experts = expert_weights(base)
        if self.targets == "all-linear" and (self.layers != "all" or experts):
            # The word alone is for whole models, and in a mixture peft would take the experts' and the router's too.
            if request.linear_modules is None:
                raise ftp.ModelError(f"{self.used_as}: which layers of {loaded.name} are linear? Name them in targets")
            where["target_modules"] = sorted(request.linear_modules - (EXPERT_NAMES if experts else set()))
        if self.layers != "all":
            path, modules = decoder_layers(base)
            chosen = layer_numbers(self.layers, len(modules))
            where |= {"layers_to_transform": chosen, "layers_pattern": path.rsplit(".", 1)[-1]}
            experts = [name for name in experts if any(name.startswith(f"{path}.{number}.") for number in chosen)]
        if self.experts:
            where["target_parameters"] = experts  # by their whole paths: peft ignores layers for them
        return where

    def _check_targets(self, base: Any) -> None:
        """Refuse a regular expression that matches no layer, or what isn't a linear layer of the decoder."""
        import torch

        modules = dict(base.named_modules())
        linear = [path for path, module in modules.items() if isinstance(module, torch.nn.Linear)]
        matched = [path for path in modules if re.fullmatch(str(self.targets), path)]
        if not matched:
            raise ftp.ModelError(
                f"{self.used_as}: targets: '{self.targets}' matches no layer's whole path, such as {linear[0]}; a list "
                "chooses layers by name, and all-linear takes all"
            )
        for path in matched:
            if path not in linear:
                raise ftp.ModelError(f"{self.used_as}: targets: '{path}' is matched and is not a linear layer")
            if modules[path] is base.get_output_embeddings():
                raise ftp.ModelError(
                    f"{self.used_as}: targets: '{path}' is matched and is the output head; train it by modules_to_save"
                )

    def _notes(self, loaded: ftp.LoadedModel) -> list[str]:
        from ftp.lm.torch_models import expert_weights

        names = sorted({".".join(name.split(".")[-2:]) for name in expert_weights(loaded.model)})
        if not names:
            return []
        note = f"The weights of the experts ({', '.join(names)}) are not linear layers"
        if not self.experts:
            note += "; they get no adapter and stay frozen, like the router. Set adapter.experts: true to adapt them"
        if self._in_4_bits:
            note += "; they are not quantised and take as much memory as before"
        shared = sorted((loaded.request.linear_modules or set()) & EXPERT_NAMES)
        if shared and self.targets == "all-linear":
            note += f"; {', '.join(shared)} beside them get no adapter, since peft takes those names for the experts'"
        return [f"{note}."]

    def save(self, loaded: ftp.LoadedModel, directory: Path) -> None:
        # Of the embeddings only what trained is written; peft would add all of them when the vocabulary has grown.
        loaded.model.save_pretrained(directory, save_embedding_layers=False)
        if self.init in ("pissa", "olora"):
            from ftp_plugins.adapters.torch_lora_init import as_plain_adapter

            as_plain_adapter(loaded.model, directory)

    def can_restore(self, directory: Path) -> bool:
        return (directory / "adapter_config.json").is_file()

    def restore(self, loaded: ftp.LoadedModel, directory: Path) -> ftp.LoadedModel:
        import peft

        from ftp_plugins.adapters.torch_modules import look_like_layers

        model = peft.PeftModel.from_pretrained(loaded.model, directory)
        look_like_layers(model)
        return dataclasses.replace(loaded, model=model)
