"""The stacks of processes that wait for each other in vain."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

SIGNAL = getattr(signal, "SIGUSR1", None)
"""Makes a process write its stacks, also from within a library's code. Windows has none."""


class Stacks:
    """Writes where every thread of this process is to `DIRECTORY/process-<rank>.txt` when it gets `SIGNAL`.

    Empty files are removed at the end.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self.directory, self.file = directory, directory / f"process-{rank}.txt"
        directory.mkdir(exist_ok=True)
        self.stream = self.file.open("a", encoding="utf-8")
        if SIGNAL is not None:
            faulthandler.register(SIGNAL, self.stream, all_threads=True)

    def write(self, late: Sequence[tuple[int, str, int]]) -> None:
        """Write this process's stacks, and have those of this machine that are late write theirs.

        Args:
            late: number, host and pid of each.
        """
        faulthandler.dump_traceback(self.stream, all_threads=True)
        for _, host, pid in late:
            if host == socket.gethostname() and SIGNAL is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, SIGNAL)
        time.sleep(0.5)  # they write before the launcher ends them

    def close(self) -> None:
        """Stop writing stacks."""
        if SIGNAL is not None:
            faulthandler.unregister(SIGNAL)
        self.stream.close()
        remove_empty(self.directory)


def remove_empty(directory: Path) -> None:
    """Remove the files into which nothing was written, also those of processes that were killed."""
    with contextlib.suppress(OSError):  # another process may be at it
        for file in directory.glob("process-*.txt"):
            if file.stat().st_size == 0:
                file.unlink()
        directory.rmdir()
