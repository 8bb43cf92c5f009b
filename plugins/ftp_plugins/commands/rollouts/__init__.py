"""`ftp rollouts`: the answers that a training with rewards has sampled."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON


@click.command("rollouts")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--step", type=click.IntRange(min=1), help="Only those of this step.")
@click.option("--prompt", metavar="ID", help="Only answers to the prompt of this row, such as train.jsonl:7.")
@click.option(
    "--sort",
    type=click.Choice(["step", "best", "worst", "longest"]),
    default="step",
    show_default=True,
    help="Order: by step, or by reward or length.",
)
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many to show.")
@JSON
def command(run: Path, step: int | None, prompt: str | None, sort: str, count: int, as_json: bool) -> None:
    """Show the answers that a run has sampled in training, each with its rewards.

    RUN is a run directory. Without options, a line for every step and the last answers. What is read is rollouts.jsonl
    in the run; steps that were repeated after an interruption appear once.
    """
    from ftp.errors import FtpError, RunError
    from ftp.records.rollouts import FILE, read_rollouts
    from ftp.runs.directory import RunDirectory
    from ftp_plugins.commands.rollouts.tables import chosen, show

    file = RunDirectory(run).place(FILE)
    if not file.is_file():
        raise RunError(f"{run}: no {FILE} in it; only a training with rewards, such as `grpo`, writes one")
    rollouts = read_rollouts(file)
    found = chosen(rollouts, step, prompt, sort, count)
    if not found:
        wanted = [*([f"step {step}"] if step else []), *([f"the prompt {prompt}"] if prompt else [])]
        raise FtpError(f"{file}: no rollouts of {' and '.join(wanted)}" if wanted else f"{file}: no rollouts yet")
    if as_json:
        echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        show(rollouts if step is None and prompt is None else [], found)
