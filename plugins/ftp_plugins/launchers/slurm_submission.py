"""Submit a job to SLURM, and follow it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import submitit

import ftp
from ftp_plugins.launchers.slurm_options import SlurmOptions
from ftp_plugins.launchers.slurm_task import INTERRUPTED, Task, outcomes

POLL_SECONDS = 1.0
"""Between two looks at a job."""
LOOKS_UNTIL_OVER = 20
"""Looks in a row at which a job that was stopped has to be over: one that is queued again looks so until it has left
its nodes."""
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "SUSPENDED")
AT_WORK = ("RUNNING", "COMPLETING", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT")


def submit(options: SlurmOptions, job: ftp.Launch) -> Any:
    """Submit a run as one job with a task for each process; return submitit's job.

    Raises:
        LaunchError: SLURM isn't there, or refuses the job.
    """
    folder = options.directory.absolute()
    given = {"partition": options.partition, "account": options.account, "qos": options.qos}
    given["constraint"] = options.constraint
    general: dict[str, Any] = {"cpus_per_task": options.cpus_per_process, "mem_gb": options.memory_gb}
    slurm = {f"slurm_{key}": value for key, value in given.items()}
    parameters = {key: value for key, value in {**general, **slurm}.items() if value is not None}
    try:
        executor = submitit.AutoExecutor(folder, cluster=options.cluster, slurm_max_num_timeout=options.requeues)
        executor.update_parameters(
            name=job.name,
            nodes=options.nodes,
            tasks_per_node=options.processes_per_node or options.gpus_per_node or 1,
            gpus_per_node=options.gpus_per_node,
            timeout_min=options.minutes,
            stderr_to_stdout=True,
            slurm_setup=options.setup,
            slurm_signal_delay_s=options.grace_seconds,
            # A process that fails for good ends the others, which would wait for it.
            slurm_srun_args=["--kill-on-bad-exit=1"],
            slurm_additional_parameters={"requeue": True, **options.options},
            **parameters,
        )
        task = Task(list(job.command), list(job.again), options.collective_minutes * 60, options.restarts)
        return executor.submit(task)
    except (RuntimeError, ValueError, OSError) as error:  # what submitit raises
        said = str(error).strip().splitlines()
        raise ftp.LaunchError(f"SLURM didn't take the job: {said[-1] if said else type(error).__name__}") from error


def follow(options: SlurmOptions, job: Any, launch: ftp.Launch) -> int:
    """Show the output of a job's first process until the job ends, and return the run's exit code.

    Ctrl-C leaves the job.

    Raises:
        LaunchError: the job has ended without the run's having said why.
    """
    stop = f"scancel {job.job_id}" if options.cluster == "slurm" else f"kill {job.job_id}"
    launch.note(f"Job {job.job_id} is submitted. Ctrl-C leaves it; `{stop}` stops it.")
    output, shown, said, over = Path(job.paths.stdout), 0, "", 0
    try:
        while True:
            state, why = _state(options, job)
            shown += _show(output, shown)
            if (text := _in_words(job.job_id, state, why)) != said and state in (*WAITING, "RUNNING"):
                launch.note(said := text)
            over = 0 if state in (*WAITING, *AT_WORK) else over + 1
            if over > (0 if _has_said_why(job) else LOOKS_UNTIL_OVER):
                break
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        launch.note(f"\nJob {job.job_id} goes on. `{stop}` stops it; `tail -f {output}` follows it.")
        return 130
    shown += _show(output, shown)
    return _ended(job, launch, state, why, output)


def _has_said_why(job: Any) -> bool:
    """Return whether a process has ended the run for good: finished, or failed in a way that would come again."""
    found = outcomes(Path(job.paths.folder), job.job_id)
    return any(outcome["code"] not in INTERRUPTED and (outcome["code"] or not outcome["task"]) for outcome in found)


def _ended(job: Any, launch: ftp.Launch, state: str, why: str, output: Path) -> int:
    """Return the exit code of a job that has ended, the first process's before others'.

    A process that was ended along with the one that failed says less than that one.
    """
    found = outcomes(Path(job.paths.folder), job.job_id)
    failed = sorted(found, key=lambda outcome: (outcome["code"] == 0, outcome["code"] in INTERRUPTED, outcome["task"]))
    if not failed:
        raise ftp.LaunchError(f"Job {job.job_id} has ended: {state}{f', {why}' if why else ''}; its output is {output}")
    first = failed[0]
    if first["code"] in INTERRUPTED:
        launch.note(f"Job {job.job_id} was stopped ({state}{f', {why}' if why else ''}).")
    elif first["task"] or first["why"]:
        raise ftp.LaunchError(f"Job {job.job_id} has failed: {first['what']}; its output is {first['output']}")
    return int(first["code"])


def _state(options: SlurmOptions, job: Any) -> tuple[str, str]:
    """Return the state of a job as SLURM names it, and the reason that SLURM gives."""
    if options.cluster == "local":
        return ("COMPLETED", "") if job.done() else ("RUNNING", "")
    done = subprocess.run(
        ["scontrol", "show", "job", "-o", str(job.job_id)], capture_output=True, text=True, timeout=60, check=False
    )
    fields = dict(part.partition("=")[::2] for part in done.stdout.split())
    if "JobState" not in fields:
        # SLURM forgets a job some minutes after its end; a controller that doesn't answer forgets nothing.
        gone = "Invalid job id" in done.stderr
        return ("COMPLETED", "") if gone else ("RUNNING", "")
    reason = fields.get("Reason", "None")
    return fields["JobState"], "" if reason == "None" else reason


def _in_words(job_id: str, state: str, why: str) -> str:
    if state in WAITING:
        return f"Job {job_id} waits{f': {why}' if why else ''}."
    return f"Job {job_id} runs."


def _show(file: Path, start: int) -> int:
    """Print a file from a position on; return how many bytes those were."""
    with contextlib.suppress(FileNotFoundError), file.open("rb") as stream:
        stream.seek(start)
        size = 0
        for block in _blocks(stream):
            sys.stdout.write(block.decode("utf-8", errors="replace"))
            size += len(block)
        sys.stdout.flush()
        return size
    return 0


def _blocks(stream: Any) -> Iterator[bytes]:
    while block := stream.readline(2**16):
        yield block
