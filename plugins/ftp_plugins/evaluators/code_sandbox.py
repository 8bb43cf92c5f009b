"""A process with limits for code that nobody has read.

What it limits: seconds, address space, size of files, output (none is kept), the environment (no variable of the
user's), and on Linux with user namespaces the network and every process that the code has started.

What it does not: the code runs as the user and can read and change the user's files. It can look into the process that
runs the tests, and so make them pass without solving anything.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HARNESS = Path(__file__).with_name("code_harness.py")
MOST_BYTES = 20_000
"""Longest report of a process that is read."""
NAMESPACES = ("--user", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may use."""

    seconds: float
    memory_mb: int
    """Address space in 10^6 bytes."""
    file_mb: int = 16
    """Size of a file, in 10^6 bytes."""


@functools.cache
def cuts_off_network() -> bool:
    """Return whether this machine can run a process without a network, by util-linux's `unshare`."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    try:
        done = subprocess.run([unshare, *NAMESPACES, "true"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def run_tests(code: str, tests: str, limits: Limits) -> tuple[int, int, str]:
    """Run code and then its tests in a process of their own.

    Returns:
        How many `assert` statements held, of how many, and why the first one didn't, in words.
    """
    with tempfile.TemporaryDirectory(prefix="ftp-code-", ignore_cleanup_errors=True) as directory:
        place, secret = Path(directory), secrets.token_hex(16)
        task = {"code": code, "tests": tests, "secret": secret, "memory": limits.memory_mb * 10**6}
        task |= {"seconds": int(limits.seconds) + 1, "file": limits.file_mb * 10**6}
        command = [sys.executable, "-I", "-B", str(HARNESS)]
        if cuts_off_network():
            command = ["unshare", *NAMESPACES, *command]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": directory, "TMPDIR": directory}
        environment |= {"LANG": "C.UTF-8", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        late = _run(command, json.dumps(task), place, environment, limits.seconds)
        report = _report(place / "report.json", secret)
    if report is None:
        return 0, 0, late or "the process ended before the tests did"
    return report


def _run(command: list[str], task: str, place: Path, environment: dict[str, str], seconds: float) -> str:
    """Run the process; return why it was ended, or nothing."""
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        process.communicate(task, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"took more than {seconds:g} seconds"
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return ""


def _report(file: Path, secret: str) -> tuple[int, int, str] | None:
    """Return what the harness wrote, unless the code has ended it or written that file itself."""
    try:
        with file.open("rb") as stream:
            found = json.loads(stream.read(MOST_BYTES))
        if found["secret"] != secret:
            return None
        return int(found["held"]), int(found["of"]), str(found["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
