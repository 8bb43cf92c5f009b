"""`ftp plan --devices`: what training would take on other devices than this machine's."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from ftp.errors import ModelError
from ftp.recipe.model import Recipe
from ftp_plugins.commands.plan.arithmetic import (
    RESERVED,
    Load,
    Memory,
    Shape,
    memory_on,
    rows_at_once,
    tokens_per_second,
    utilisation,
)
from ftp_plugins.commands.plan.devices import Device, parse_devices

WAYS = ("ddp", "fsdp2", "fsdp2 with offload")
"""How weights lie on the devices, from the fastest to the one that needs the least memory."""


def plan_elsewhere(
    recipe: Recipe, file: Path, devices: str, stage: Callable[[str], Callable[[int], None]]
) -> dict[str, Any]:
    """Return whether a recipe fits on devices, in which way, and what it takes; the model isn't loaded.

    Raises:
        LaunchError: the devices are not known.
        ModelError: the loader, the adapter or the trainer allows no estimate.
    """
    count, device = parse_devices(devices)
    loaded = _empty(recipe)
    from ftp_plugins.commands.plan.torch_shape import measured_tflops, shape_of

    shape = shape_of(loaded)
    load = _load(recipe, file, count, stage)
    if device is None:
        import psutil

        threads = max(1, (os.cpu_count() or 1) // count)
        device = Device("CPU", psutil.virtual_memory().total / 1e9 / count, measured_tflops(threads), 2.0)
    fits, memory, load = _placed(shape, load, count, device)
    shares = utilisation(shape, measured_peak=device.name == "CPU")
    low, middle, high = tokens_per_second(shape, load, count, device, shares)
    tokens = round(sum(load.lengths) * load.epochs)
    return {
        "devices": {"count": count, **dataclasses.asdict(device)},
        "parameters": shape.parameters,
        "trainable_parameters": shape.trainable,
        "tokens": tokens,
        "rows_at_once": load.rows_at_once,
        "gradient_checkpointing": load.checkpointing,
        "fits": fits,
        "memory_gb": {
            **{k: round(v, 2) for k, v in dataclasses.asdict(memory).items()},
            "total": round(memory.total, 2),
        },
        "tokens_per_second": [round(low), round(middle), round(high)],
        "seconds": [round(tokens / each) for each in (high, middle, low)],
        "utilisation": [round(share, 3) for share in shares],
        "idle_devices": max(0, count - load.rows_of_a_step),
    }


def _empty(recipe: Recipe) -> Any:
    """Return the model with its adapter on the meta device, in the types that it would have on a GPU."""
    from ftp.components import LoadsStructure
    from ftp.guard import call, described
    from ftp.types import LoadedModel, ModelRequest

    if not isinstance(recipe.model, LoadsStructure):
        raise ModelError(f"{described(recipe.model)} can't give the model's structure without its weights")
    request = call(ModelRequest, recipe.adapter.prepare, call(ModelRequest, recipe.model.describe))
    if request.dtype == "auto":
        request = dataclasses.replace(request, dtype="bfloat16")
    adapter = recipe.adapter
    if getattr(adapter, "init", "default") != "default":  # what weights begin with doesn't change their number
        adapter = adapter.model_copy(update={"init": "default"})
    return call(LoadedModel, adapter.apply, call(LoadedModel, recipe.model.load_structure, request))


def _load(recipe: Recipe, file: Path, devices: int, stage: Callable[[str], Callable[[int], None]]) -> Load:
    """Return the rows of the recipe as training gets them; they are read and tokenised."""
    from ftp.stages.prepare_data import prepare_data
    from ftp.stages.tokenise_rows import tokenise_rows

    trainer, rate = recipe.train, recipe.train.peak_rate()
    batch_size = getattr(trainer, "batch_size", None)
    if rate is None or batch_size is None or trainer.answers_prompts:
        raise ModelError(f"the trainer '{trainer.used_as}' can't be planned for other devices: its steps aren't rows")
    with tempfile.TemporaryDirectory(prefix="ftp-") as place:
        corpus, ledger = prepare_data(recipe, Path(place), file.absolute().parent, stage("Reading rows"))
        told, _ = tokenise_rows(recipe, corpus, ledger, lambda title, rows: stage(title))
        rows = [told.row(example.id) for example in corpus.train]
    rows = [row for row in rows if (row["tokens"] or 0) > 0]
    if not rows:
        raise ModelError(f"the loader '{recipe.model.used_as}' tells nothing of the rows' tokens before the load")
    lengths = [int(row["tokens"]) for row in rows]
    accumulation, steps = max(1, rate[1] // batch_size), getattr(trainer, "max_steps", None)
    return Load(
        lengths=lengths,
        trained_share=sum(int(row["trained_tokens"] or 0) for row in rows) / sum(lengths),
        rows_of_a_step=rate[1],
        rows_at_once=rows_at_once(batch_size, accumulation, devices),
        epochs=steps * rate[1] / len(lengths) if steps else getattr(trainer, "epochs", 1),
        checkpointing=getattr(trainer, "gradient_checkpointing", False),
    )


def _placed(shape: Shape, load: Load, count: int, device: Device) -> tuple[str | None, Memory, Load]:
    """Return the fastest way that fits, its memory, and the load with checkpointing where that is needed.

    Where nothing fits: None, with what the last way would take.
    """
    usable = device.memory_gb * (1 - RESERVED)
    ways = [way for way in WAYS if (way != "fsdp2" or count > 1) and not (device.name == "CPU" and "offload" in way)]
    for way in ways:
        for checkpointing in sorted({load.checkpointing, True}):
            tried = dataclasses.replace(load, checkpointing=checkpointing)
            memory = memory_on(shape, tried, count, way)
            if memory.total <= usable:
                return way, memory, tried
    return None, memory, tried


def lines_elsewhere(found: Mapping[str, Any], asked_checkpointing: bool) -> Iterator[str]:
    """Yield the plan as lines."""
    devices, memory = found["devices"], found["memory_gb"]
    of = f"{devices['count']} x {devices['name']}"
    measured = "measured here in float32" if devices["name"] == "CPU" else "bfloat16"
    yield f"devices     {of}, {devices['memory_gb']:.0f} GB and {devices['tflops']:.3g} TFLOP/s each ({measured})"
    yield f"parameters  {found['trainable_parameters']:,} of {found['parameters']:,} train"
    parts = ", ".join(f"{name} {memory[name]:.1f}" for name in ("weights", "gradients", "optimizer", "activations"))
    yield f"memory      about {memory['total']:.1f} GB on each: {parts}; up to {found['rows_at_once']} rows at once"
    yield f"fits        {_verdict(found)}"
    if found["gradient_checkpointing"] and not asked_checkpointing:
        yield "            with train.gradient_checkpointing: true, which the recipe doesn't set"
    if found["idle_devices"]:
        yield f"            {found['idle_devices']} devices have nothing to do: a step has too few rows for all of them"
    if found["fits"] is None:
        return
    low, middle, high = found["tokens_per_second"]
    shares = found["utilisation"]
    yield f"speed       about {middle:,} tokens/s ({low:,} to {high:,})"
    short, usual, long = (timedelta(seconds=seconds) for seconds in found["seconds"])
    yield f"time        about {usual} ({short} to {long}) for {found['tokens']:,} tokens, validation not counted"
    yield (
        f"how sure    memory within about a quarter. Speed supposes {shares[1]:.0%} of the peak ({shares[0]:.0%} to "
        f"{shares[2]:.0%}); `ftp plan` on such a machine measures it. The optimizer is counted as AdamW"
    )


def _verdict(found: Mapping[str, Any]) -> str:
    way, one = found["fits"], found["devices"]["count"] == 1
    if way is None:
        return "no, not even with sharded weights in main memory and gradient checkpointing"
    if way == "ddp":
        return "yes" if one else "yes, whole on each device (DDP)"
    return f"not whole: needs {way.replace('fsdp2', 'sharded weights (FSDP2)')}, which FTP doesn't do yet"
