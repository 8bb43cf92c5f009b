"""The options of a job of SLURM."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

import ftp


class SlurmOptions(ftp.Launcher):
    """Options of a job of SLURM."""

    requires: ClassVar[tuple[str, ...]] = ("submitit", "torch")

    nodes: int = Field(default=1, ge=1)
    """Number of nodes."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of each node, with a process each."""
    processes_per_node: int | None = Field(default=None, ge=1)
    """Processes of each node. Without it, one for each GPU, or one."""
    cpus_per_process: int | None = Field(default=None, ge=1)
    """Processors of each process."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Memory of each node."""
    minutes: int = Field(default=60, ge=1)
    """Time limit of the job. Before it is reached, the run saves a checkpoint, and the job is queued again."""
    partition: str | None = None
    """Partition of the cluster."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have, such as the GPU kind."""
    options: dict[str, str] = {}
    """More options of sbatch, by their long names: {reservation: training}."""
    setup: list[str] = []
    """Shell commands before the run, such as `module load cuda`."""
    directory: Path = Path("slurm")
    """Directory for the jobs' scripts and output."""
    requeues: int = Field(default=20, ge=0)
    """How often the job is queued again after its time limit."""
    restarts: int = Field(default=3, ge=0)
    """How often the job is queued again after a process was killed or did not answer."""
    collective_minutes: float = Field(default=10, gt=0)
    """Longest time that a process waits for the others in training."""
    grace_seconds: int = Field(default=120, ge=10)
    """Time before the limit at which the run is told to save a checkpoint."""
    cluster: Literal["slurm", "local"] = "slurm"
    """local: run the job on this machine without SLURM, to try a placement out."""

    def problems(self) -> list[str]:
        found = []
        if self.gpus_per_node and (self.processes_per_node or 0) > self.gpus_per_node:
            found.append(f"processes_per_node: {self.processes_per_node} for {self.gpus_per_node} GPUs")
        if self.cluster == "local" and self.nodes > 1:
            found.append("nodes: cluster: local is this machine alone")
        if self.grace_seconds >= self.minutes * 60:
            found.append(f"grace_seconds: {self.grace_seconds} of a time limit of {self.minutes * 60} s")
        return found
