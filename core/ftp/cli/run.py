"""`ftp run`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ftp.cli.consent import TRUST, ask_for_recipe
from ftp.cli.echo import echo
from ftp.cli.launch import ON, launch, plugin_arguments
from ftp.cli.options import RECIPE, REPLAY, RUNS, SET, TRACEBACK, load_plugins, load_recipe, plugin_options
from ftp.cli.processes import check_machines, processes, take_part

if TYPE_CHECKING:
    from ftp.progress import Progress
    from ftp.types import FinishedRun


@click.command("run")
@RECIPE
@SET
@plugin_options
@RUNS
@REPLAY
@TRACEBACK
@TRUST
@ON
@click.option("--new", is_flag=True, help="Begin a new run even if an equal one exists.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    help="Number of runs, with seed, seed + 1, …; prints each metric's mean and between-run spread.",
)
def command(
    recipe: Path,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    root: Path,
    trust: bool,
    placement: str | None,
    new: bool,
    seeds: int,
) -> None:
    """Run a recipe: data, training, evaluation, report.

    If an equal run was interrupted, it is resumed, even in the middle of training; if one is finished, nothing is
    repeated. SIGTERM and Ctrl-C first save a checkpoint if there is anything to save; a second one ends the run at
    once.
    """
    from ftp import pipeline
    from ftp.lm import allocator

    allocator.restart_without_cache()
    # Absolute, so that `ftp resume` finds them from another directory.
    plugins = load_plugins(tuple(file.absolute() for file in files), without)
    checked = load_recipe(recipe, plugins, settings)
    others = [load_recipe(recipe, plugins, (*settings, f"seed={checked.seed + more}")) for more in range(1, seeds)]
    ask_for_recipe(checked, str(recipe), trust)
    if placement is not None:
        if seeds > 1:
            raise click.UsageError("--seeds with --on: run one seed after the other, with --set seed=…")
        same = [*(f"--set={setting}" for setting in settings), f"--runs={root}", *plugin_arguments(files, without)]
        launch(placement, plugins, checked.name, ["run", str(recipe), *same, "--trust"], ["--new"] if new else [])
    with at_work() as progress, processes(checked) as joined:
        check_machines(joined, checked, plugins, recipe, progress)
        if joined is not None and not joined.first:
            take_part(joined, checked, recipe, progress)
            return
        runs = [pipeline.run(one, plugins, recipe, root, progress, new=new) for one in (checked, *others)]
    if seeds > 1:
        _print_seeds(runs)
    else:
        tell(runs[-1])


@contextlib.contextmanager
def at_work() -> Iterator[Progress]:
    """Show a run in progress; if a signal ends it, exit with code 130 or 143 and print the command to resume it."""
    from ftp.cli.memory import is_lack_of_memory
    from ftp.cli.show import show
    from ftp.errors import ComponentError, FtpError, Interrupted

    def how_to_resume(before: str) -> str:
        if progress is None or progress.directory is None:
            return f"{before} before the run began."
        return f"{before}; `ftp resume {progress.directory}` resumes it."

    progress: Progress | None = None
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # others may not set handlers
        handlers = {number: signal.signal(number, _end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        quiet_libraries()
        with show() as progress:
            yield progress
    except (KeyboardInterrupt, Interrupted) as stop:
        number = stop.number if isinstance(stop, Interrupted) else (*stop.args, signal.SIGINT)[0]
        saved = " with a checkpoint saved" if isinstance(stop, Interrupted) else ""
        echo(f"\n{how_to_resume(f'Interrupted{saved}')}", err=True)
        sys.exit(128 + number)
    except Exception as error:
        root = (error.__cause__ or error) if isinstance(error, ComponentError) else error
        if not isinstance(root, FtpError) and is_lack_of_memory(root):
            first = str(root).strip().split("\n")[0][:200]
            raise FtpError(how_to_resume(f"too little memory ({first or type(root).__name__})")) from error
        if not isinstance(root, FtpError) and _is_out_of_space(root):
            raise FtpError(how_to_resume(f"{root}: free some space")) from error
        if isinstance(error, ComponentError) and progress is not None and progress.directory is not None:
            raise FtpError(f"{error}\n{_kept(progress.directory)}") from error
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _kept(run: Path) -> str:
    """Say what is kept of a run that a component has ended, and how to resume it."""
    from ftp.runs.directory import RunDirectory

    words = {"data": "the rows", "base": "the base model's answers", "train": "the trained model"}
    words |= {"tuned": "the tuned model's answers", "evaluate": "the evaluation"}
    done = [words[stage] for stage in RunDirectory(run).stages() if stage in words]
    if "train" not in RunDirectory(run).stages():
        done += [f"the checkpoint {path.name}" for path in run.glob("checkpoints/step-*[0-9]")]
    kept = f"Kept: {', '.join(done)}. " if done else "Nothing is done yet. "
    return f"{kept}Fix the plugin; `ftp resume {run} --anyway` resumes the run. --traceback shows where it failed."


def _end(number: int, frame: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_DFL)  # a second one ends at once, whatever is being tidied up
    raise KeyboardInterrupt(number)


def _is_out_of_space(error: BaseException) -> bool:
    """Return whether a disk is full or a limit is reached; libraries report this in exceptions of their own."""
    reasons = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in reasons or any(os.strerror(number) in str(error) for number in reasons)


def tell(finished: FinishedRun) -> None:
    """Print the result of a run and the path of its first report."""
    from ftp.cli.show import three_lines

    for line in three_lines(finished):
        echo(line)
    echo(next((report for report in finished.reports if report.exists()), finished.directory))


def _print_seeds(runs: list[FinishedRun]) -> None:
    """Print the results over several seeds, and write them as seeds.json into the last run."""
    from ftp.cli.seeds import in_words, over_seeds
    from ftp.runs.directory import RunDirectory

    found = over_seeds(runs)
    for metric in found["metrics"]:
        echo(in_words(metric))
    for run in runs:
        echo(run.directory)
    echo(RunDirectory(runs[-1].directory).write_json("seeds.json", found))


def quiet_libraries() -> None:
    """Prepare for the heavy libraries: check the address space, and silence their progress bars and notices."""
    import logging as standard_logging
    import warnings

    from ftp.cli.memory import check_address_space

    check_address_space()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|torch)\b")
    standard_logging.getLogger("bitsandbytes").setLevel(standard_logging.ERROR)
    for name, value in {
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "BITSANDBYTES_NOWELCOME": "1",
    }.items():
        os.environ.setdefault(name, value)
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
