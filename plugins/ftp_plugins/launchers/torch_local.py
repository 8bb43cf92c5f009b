"""Processes on this machine, under torchrun's elastic agent."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import ftp
from ftp.cache import user_cache
from ftp.lm.training.torch_processes import SECONDS
from ftp_plugins.launchers.local_options import LocalOptions

LAST_LINES = 15
"""Lines of a failed process's output that are shown."""


def launch(options: LocalOptions, job: ftp.Launch) -> int:
    """Start the processes, and start all of them again after a failure that the run can be resumed from.

    The restarts are not the agent's own, which restarts after any exit code, also that of a wrong recipe.
    """
    count = options.processes or torch.cuda.device_count() or 1
    if torch.cuda.is_available() and count > torch.cuda.device_count():
        raise ftp.LaunchError(f"processes: {count} for {torch.cuda.device_count()} GPUs: each process needs its own")
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they would say is said in the run's own words
    logs = user_cache("launches") / secrets.token_hex(4)
    command = job.command
    for restart in range(options.restarts + 1):
        try:
            with _environment(options, count):
                elastic_launch(_config(options, count, logs), command[0])(*command[1:])
            return 0
        except SignalException as stop:
            return 128 + int(stop.sigval)
        except ChildFailedError as error:
            rank, failure = _cause(error)
            code = _decided(error)
            if code is not None and rank == 0:
                return code  # it has said why
            what = _described(rank, count, failure, logs)
            if code is not None or restart == options.restarts:
                tries = f" {restart + 1} times" if code is None and restart else ""
                raise ftp.LaunchError(f"The run has failed{tries}: {what}") from None
            job.note(f"{what}\nRestart {restart + 1} of {options.restarts}: the run is resumed.")
            command = job.again
    raise AssertionError


def _config(options: LocalOptions, count: int, logs: Path) -> LaunchConfig:
    """Return how torchrun starts the processes: the first writes to this terminal, the others to files."""
    others: dict[int, Std] = dict.fromkeys(range(1, count), Std.ALL)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=secrets.token_hex(4),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(str(logs), redirects={0: Std.NONE, **others}),
        virtual_local_rank=torch.cuda.is_available(),  # each process sees one GPU, its own
        shutdown_timeout=options.grace_seconds,
    )


@contextlib.contextmanager
def _environment(options: LocalOptions, count: int) -> Iterator[None]:
    """Give the processes what they need beyond torchrun's variables."""
    threads = options.threads or max(1, (os.cpu_count() or 1) // count)
    values = {SECONDS: str(options.collective_minutes * 60)}
    if options.threads or "OMP_NUM_THREADS" not in os.environ:
        values["OMP_NUM_THREADS"] = str(threads)
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _cause(error: ChildFailedError) -> tuple[int, ProcessFailure]:
    """Return the process whose end says most: not one that lost another, or was ended with it, if there is any other.

    One that another didn't answer comes first: it names that one, which was then killed.
    """
    follow = (ftp.ProcessLost.exit_code, -signal.SIGTERM)

    def order(item: tuple[int, ProcessFailure]) -> tuple[bool, bool, int]:
        rank, failure = item
        return failure.exitcode != ftp.ProcessLate.exit_code, failure.exitcode in follow, rank

    return min(error.failures.items(), key=order)


def _decided(error: ChildFailedError) -> int | None:
    """Return the exit code with which a process has ended the run for good, the first process's before others'.

    Starting again helps after a signal and where a process has lost another. An error would only come again.
    """
    codes = [failure.exitcode for _, failure in sorted(error.failures.items())]
    again = (ftp.ProcessLost.exit_code, ftp.ProcessLate.exit_code)
    return next((code for code in codes if code > 0 and code not in again), None)


def _described(rank: int, count: int, failure: ProcessFailure, logs: Path) -> str:
    """Return which process failed, how, and what it wrote last."""
    how = f"was killed by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with code {failure.exitcode}"
    text = f"process {rank} of {count} (pid {failure.pid} on {socket.gethostname()}) {how}"
    lines = _last_lines(sorted(logs.glob(f"*/attempt_0/{rank}/stderr.log"), key=lambda file: file.stat().st_mtime))
    return "\n".join([f"{text}; its output is in {logs}" if rank else text, *lines])


def _last_lines(files: Sequence[Path]) -> list[str]:
    if not files:
        return []
    lines = files[-1].read_text(encoding="utf-8", errors="replace").splitlines()
    return [f"  | {line}" for line in lines[-LAST_LINES:]]
