"""`ftp plan`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from ftp.cli.consent import TRUST, ask_for_recipe
from ftp.cli.echo import echo
from ftp.cli.options import JSON, RECIPE, SET, load_plugins, load_recipe, plugin_options


@click.command("plan")
@RECIPE
@SET
@plugin_options
@TRUST
@click.option(
    "--devices",
    metavar="NUMBERxKIND",
    help="Plan for other devices, by arithmetic and without loading the model: 8xH100, A100-40GB, '2xRTX 4090', 4xCPU.",
)
@JSON
def command(
    recipe: Path,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
    devices: str | None,
    as_json: bool,
) -> None:
    """Estimate what training would take: parameters, tokens, steps, time, memory, disk. Trains nothing.

    The model is loaded, the largest batch goes through it, and a few real steps are timed. No run is created.

    With --devices: whether the recipe fits on such devices and with which sharding, tokens per second and time, from
    the model's arithmetic and published shares of the devices' peak.
    """
    from ftp.cli.run import quiet_libraries
    from ftp.cli.show import show
    from ftp.errors import ModelError
    from ftp.guard import call
    from ftp.lm import allocator
    from ftp.stages.dry_run import dry_run, notes_only

    allocator.restart_without_cache()  # as `ftp run` does: the memory is that of a run
    checked = load_recipe(recipe, load_plugins(files, without), settings)
    ask_for_recipe(checked, str(recipe), trust)
    quiet_libraries()
    if devices is not None:
        from ftp_plugins.commands.plan.elsewhere import lines_elsewhere, plan_elsewhere

        with show() as progress:
            told = plan_elsewhere(checked, recipe, devices, progress.stage)
        asked = bool(getattr(checked.train, "gradient_checkpointing", False))
        echo(json.dumps(told, indent=2) if as_json else "\n".join(lines_elsewhere(told, asked)))
        return
    with show() as progress, dry_run(checked, recipe, progress.stage, notes_only(progress.event)) as job:
        progress.stage("Measuring a few steps")
        planned = call(Mapping | None, checked.train.plan, job)
        if planned is None:
            raise ModelError(f"the trainer '{checked.train.used_as}' can't estimate what training would take")
        saved = job.directory.parent / "model"
        saved.mkdir()
        call(object, checked.adapter.save, job.model, saved)
        size = sum(file.stat().st_size for file in saved.rglob("*") if file.is_file())
    found = {**planned, "model_mb": round(size / 1e6, 1)}
    echo(json.dumps(found, indent=2) if as_json else "\n".join(_lines(found)))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the plan as lines; what a trainer doesn't report is left out."""
    from ftp.cli.show import products_line

    yield from _line(
        found,
        "parameters",
        "{trainable_parameters:,} of {total_parameters:,} train",
        *("trainable_parameters", "total_parameters"),
    )
    yield from _line(
        found,
        "data",
        "{rows:,} rows, {tokens_per_epoch:,} tokens an epoch; {trained_tokens:,} trained tokens in all",
        *("rows", "tokens_per_epoch", "trained_tokens"),
    )
    if found.get("shared_tokens"):
        yield f"{'':12}{found['shared_tokens']:,} tokens an epoch are computed once with those of another row"
    yield from _line(
        found,
        "steps",
        "{steps:,}, with {evaluations} validations of {validation_rows:,} rows and {checkpoints} checkpoints",
        *("steps", "evaluations", "validation_rows", "checkpoints"),
    )
    if "seconds" in found:
        parts = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in found.get("seconds_of", {}).items())
        yield (
            f"{'time':12}about {_duration(found['seconds'])}{f' ({parts})' if parts else ''}, with this machine as "
            "busy as it is now"
        )
        yield from (f"{'':12}not counted: {what}" for what in found.get("not_counted", ()))
    if "multiplies_in" in found:
        yield f"{'products':12}{products_line(found).removeprefix('products are ')}"
    if "memory_mb" in found:
        measured = found.get("measured_mb", found["memory_mb"])
        now = f"; {measured:,.0f} MB after the measured steps" if measured < found["memory_mb"] else ""
        yield f"{'memory':12}about {found['memory_mb']:,.0f} MB at the peak{now}"
    if "checkpoint_mb" in found:
        checkpoint, best, model = found["checkpoint_mb"], found.get("best_mb", 0), found["model_mb"]
        times = 1 + found.get("checkpoints_kept", 1)
        yield (
            f"{'disk':12}{times * (checkpoint + best) + model:,.0f} MB at the most: a checkpoint of {checkpoint:,} MB "
            f"and the best state, {best:,} MB, {'twice' if times == 2 else f'{times} times'} each while one replaces "
            f"the other, and the model, {model:,} MB"
        )


def _line(found: Mapping[str, Any], name: str, text: str, *needed: str) -> Iterator[str]:
    """Fill in a line of the plan; empty if one of its figures is missing."""
    if all(key in found for key in needed):
        yield f"{name:12}{text.format(**found)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
