"""A task of a SLURM job: one process of a run, and what happens when it ends.

submitit calls it on the job's nodes. It starts `ftp` as a process of its own, so that a signal to the job, a crash and
an exit code each have their meaning:

- The time limit: submitit gets SIGUSR2 before it and calls `checkpoint`; `ftp` gets SIGTERM, saves a checkpoint and
  ends, and submitit has the job queued again.
- Preemption and `scancel`: SLURM sends SIGTERM to `ftp` itself, which saves a checkpoint; after preemption SLURM has
  the job queued again.
- A process that was killed, or has lost another: the task has the job queued again, as often as `restarts` says.
- An error that would come again: the task ends with its code, and the job ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit

import ftp
from ftp.files import new_file

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Exit codes of a run that a signal has ended, with a checkpoint or before there was anything to save."""
LOST = (ftp.ProcessLost.exit_code, ftp.ProcessLate.exit_code)
LOST_WAIT_SECONDS = 60
"""How long a task that has lost another leaves it to the first one to have the job queued again."""
STOP_SECONDS = 3600
"""Longest time to wait for a checkpoint; SLURM's own limit comes before it."""


class Task:
    """One process of a run.

    Args:
        command: of the first start.
        again: of every later one.
        seconds: longest time that a process waits for the others in training.
        restarts: how often the job is queued again after a failure.
    """

    def __init__(self, command: Sequence[str], again: Sequence[str], seconds: float, restarts: int) -> None:
        self.command, self.again, self.seconds, self.restarts = command, again, seconds, restarts
        self.pid = 0

    def __call__(self) -> None:
        """Run the process, and record how it ended."""
        place = submitit.JobEnvironment()
        attempt = _attempt(place)
        command = self.again if attempt else self.command
        child = subprocess.Popen(command, env=self._environment(place, attempt), preexec_fn=_ignore_the_jobs_signal)
        self.pid = child.pid
        while child.poll() is None:
            time.sleep(0.2)
        code = int(child.returncode)
        if code == 0 or code in INTERRUPTED:
            self._record(place, code if code >= 0 else 128 - code)
        elif code > 0 and code not in LOST:
            self._record(place, code)
            sys.exit(code)
        else:
            self._fail(place, attempt, code)

    def checkpoint(self) -> Any:
        """Have the run save a checkpoint and end; return what submitit is to start when the job runs again."""
        if self.pid and not _has_ended(self.pid):
            os.kill(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
            while not _has_ended(self.pid) and time.monotonic() < deadline:
                time.sleep(0.2)
        return submitit.helpers.DelayedSubmission(Task(self.again, self.again, self.seconds, self.restarts))

    def _environment(self, place: Any, attempt: int) -> dict[str, str]:
        """Return the environment of torchrun for this process."""
        tasks = place.num_tasks // place.num_nodes
        # A new port at each attempt: the old one may still be in use.
        port = 20000 + (int(place.job_id) * 17 + attempt) % 20000
        variables = {
            **os.environ,
            "RANK": str(place.global_rank),
            "WORLD_SIZE": str(place.num_tasks),
            "LOCAL_RANK": str(place.local_rank),
            "LOCAL_WORLD_SIZE": str(tasks),
            "MASTER_ADDR": place.hostnames[0] if place.num_nodes > 1 else "localhost",
            "MASTER_PORT": str(port),
            "FTP_COLLECTIVE_SECONDS": str(self.seconds),
        }
        threads = os.environ.get("SLURM_CPUS_PER_TASK") or max(1, (os.cpu_count() or 1) // tasks)
        variables.setdefault("OMP_NUM_THREADS", str(threads))
        gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if len(gpus) > 1:  # each process sees one, its own
            variables["CUDA_VISIBLE_DEVICES"] = gpus[place.local_rank]
        return variables

    def _fail(self, place: Any, attempt: int, code: int) -> None:
        """Have the job queued again, or end it when that has been done often enough."""
        if code in LOST and place.global_rank:
            time.sleep(LOST_WAIT_SECONDS)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"has lost another (code {code})"
        what = f"process {place.global_rank} of {place.num_tasks} (pid {self.pid} on {socket.gethostname()}) {how}"
        failures = Path(place.paths.folder) / f"{place.job_id}_failures.jsonl"
        with failures.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"attempt": attempt, "what": what}) + "\n")
        failed = {json.loads(line)["attempt"] for line in failures.read_text(encoding="utf-8").splitlines()}
        if len(failed) > self.restarts:
            self._record(place, code if code > 0 else 128 - code, what)
            sys.exit(code if code > 0 else 128 - code)
        print(what, flush=True)
        print(f"Restart {len(failed)} of {self.restarts}: the job is queued again, and the run is resumed.", flush=True)
        _queue_again(place)

    def _record(self, place: Any, code: int, why: str = "") -> None:
        """Write down how this process ended, for whoever follows the job."""
        rank, output = place.global_rank, str(place.paths.stdout)
        what = why or f"process {rank} of {place.num_tasks} on {socket.gethostname()} ended with code {code}"
        outcome = {"task": rank, "code": code, "why": why, "what": what, "output": output}
        with new_file(_outcome_file(Path(place.paths.folder), place.job_id, rank)) as aside:
            aside.write_text(json.dumps(outcome), encoding="utf-8")


def outcomes(folder: Path, job_id: str) -> list[dict[str, Any]]:
    """Return how the processes of a job ended, in the order of their numbers; one that was cut short is missing."""
    files = folder.glob(f"{job_id}_outcome_*.json")
    return sorted((json.loads(file.read_text(encoding="utf-8")) for file in files), key=lambda found: found["task"])


def _outcome_file(folder: Path, job_id: str, task: int) -> Path:
    return folder / f"{job_id}_outcome_{task}.json"


def _attempt(place: Any) -> int:
    """Return how often the job has been started before, and forget how the last time ended."""
    _outcome_file(Path(place.paths.folder), place.job_id, place.global_rank).unlink(missing_ok=True)
    if place.cluster == "slurm":
        return int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    starts = Path(place.paths.folder) / f"{place.job_id}_starts_{place.global_rank}.txt"
    before = starts.read_text(encoding="utf-8") if starts.exists() else ""
    starts.write_text(before + "start\n", encoding="utf-8")
    return len(before.splitlines())


def _queue_again(place: Any) -> None:
    """Have the job started again from the beginning."""
    if place.cluster == "slurm":
        # Another task may have done it already, which SLURM then says.
        subprocess.run(["scontrol", "requeue", place.job_id], check=False, timeout=120)
        time.sleep(LOST_WAIT_SECONDS)  # SLURM ends this task
        sys.exit(1)
    from submitit.local.local import LOCAL_REQUEUE_RETURN_CODE

    sys.exit(LOCAL_REQUEUE_RETURN_CODE)


def _ignore_the_jobs_signal() -> None:
    """Let the process ignore the signal before the time limit, which SLURM sends to all processes of a job."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _has_ended(pid: int) -> bool:
    """Return whether a child has ended, and leave its exit code to whoever waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
