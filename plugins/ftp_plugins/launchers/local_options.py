"""The options of processes on this machine."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

import ftp


class LocalOptions(ftp.Launcher):
    """Options of processes on this machine."""

    requires: ClassVar[tuple[str, ...]] = ("torch",)

    processes: int | None = Field(default=None, ge=1)
    """Number of processes. Without it, one for each GPU, or one where there is none."""
    restarts: int = Field(default=3, ge=0)
    """How often the run is resumed from its last checkpoint after a process was killed or did not answer."""
    collective_minutes: float = Field(default=10, gt=0)
    """Longest time that a process waits for the others in training. Then the stacks of all are written, and the run is
    resumed. Writing a checkpoint and answering `dev_rows` rows have to fit in."""
    grace_seconds: int = Field(default=60, ge=1)
    """Time to save a checkpoint when the run is stopped, before the processes are killed."""
    threads: int | None = Field(default=None, ge=1)
    """Threads of each process for computing on the CPU. Without it, the cores of this machine are shared out."""
