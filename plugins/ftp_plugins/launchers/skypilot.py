"""A task of SkyPilot: machines of a cloud, or of a cluster, for the length of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

import ftp
from ftp_plugins.launchers.job_files import hand_over, job_name, torchrun, write_job


class SkyPilot(ftp.Launcher):
    """A task of SkyPilot: writes the task file, and launches it where `sky` is installed.

    SkyPilot copies this directory, with recipe and data, to every machine. The run's directory has to be one that all
    machines see and that outlives them: a bucket in `mounts`, named with `--runs`.
    """

    accelerators: str | None = None
    """GPU kind and number on each machine: `H100:8`. Without it, machines without a GPU."""
    nodes: int = Field(default=1, ge=1)
    """Number of machines."""
    processes_per_node: int | None = Field(default=None, ge=1)
    """Processes of each machine. Without it, one for each GPU, or one."""
    infra: str | None = None
    """Where to look for machines: aws, gcp/us-central1, k8s, … Without it, where it is cheapest."""
    cpus: str | None = None
    """Processors of each machine: 8, or at least as many: 8+."""
    memory: str | None = None
    """Memory of each machine in GB: 64, or at least that much: 64+."""
    spot: bool = False
    """Take machines that the cloud may reclaim. With `sky jobs launch` the run is then resumed on others."""
    setup: str = "pip install 'ftp-finetune[train]'"
    """Shell commands that prepare a machine."""
    mounts: dict[str, str] = {}
    """Buckets, by the path where machines see them: {/runs: s3://my-bucket/runs}."""
    env: dict[str, str] = {}
    """Environment variables."""
    secrets: list[str] = []
    """Environment variables whose values are taken from here at the launch: [OPENAI_API_KEY]."""
    restarts: int = Field(default=3, ge=0)
    """How often the processes are started again after one has failed; they resume the run."""
    collective_minutes: float = Field(default=10, gt=0)
    """Longest time that a process waits for the others in training."""
    submit: bool = True
    """Whether to submit the file where `sky` is installed. Off: write it and print the command."""
    file: Path | None = None
    """File to write. Without it, NAME.sky.yaml in this directory."""

    def problems(self) -> list[str]:
        found = []
        kind, _, count = (self.accelerators or "").partition(":")
        if self.accelerators is not None and not (kind and (not count or (count.isdigit() and int(count) > 0))):
            found.append("accelerators: write the kind and the number, as in H100:8")
        found += [f"mounts.{path}: must be an absolute path of the machine" for path in self.mounts if path[:1] != "/"]
        found += [f"env.{name}: is among the secrets too" for name in self.env if name in self.secrets]
        if self.nodes > 1 and not self.mounts:
            found.append("mounts: several machines need one that all of them see, for the run's directory (--runs)")
        elif self.spot and not self.mounts:
            found.append("mounts: a machine that is reclaimed takes the run with it; put it into a bucket (--runs)")
        return found

    def launch(self, job: ftp.Launch) -> int:
        file, name = self.file or Path(f"{job.name}.sky.yaml"), job_name(job.name)
        managed = ["jobs"] if self.spot else []
        write_job(file, self.task(job), f"Written by `ftp run --on` for the run {job.name}.")
        given = [part for secret in self.secrets for part in ("--secret", secret)]
        cluster = ["-n", name] if self.spot else ["-c", name]
        command = ["sky", *managed, "launch", *cluster, "-y", "-d", *given, str(file)]
        if self.spot:
            follow, stop = f"sky jobs logs -n {name}", f"sky jobs cancel -n {name}"
        else:
            follow, stop = f"sky logs {name}", f"sky down {name}"
        then = [f"`{follow}` follows it.", f"`{stop}` stops it."]
        return hand_over(job, file, command, then, submit=self.submit)

    def task(self, job: ftp.Launch) -> dict[str, Any]:
        """Return the task, as SkyPilot's YAML has it."""
        gpus = int((self.accelerators or ":0").partition(":")[2] or 1)
        processes = self.processes_per_node or ("$SKYPILOT_NUM_GPUS_PER_NODE" if gpus else 1)
        variables = {"nodes": "$SKYPILOT_NUM_NODES", "processes": str(processes), "node_rank": "SKYPILOT_NODE_RANK"}
        variables |= {"address": "$HEAD", "port": "29500"}
        run = torchrun(job, variables, self.restarts, gpus=gpus > 0)
        wanted = {"accelerators": self.accelerators, "infra": self.infra, "cpus": self.cpus, "memory": self.memory}
        resources: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
        mounts = {path: {"source": uri, "mode": "MOUNT"} for path, uri in self.mounts.items()}
        if self.spot:
            resources["use_spot"] = True
        return {
            "name": job_name(job.name),
            "workdir": ".",
            "num_nodes": self.nodes,
            **({"resources": resources} if resources else {}),
            **({"file_mounts": mounts} if mounts else {}),
            "envs": {"FTP_COLLECTIVE_SECONDS": f"{self.collective_minutes * 60:g}", **self.env},
            **({"secrets": dict.fromkeys(self.secrets)} if self.secrets else {}),
            **({"setup": self.setup} if self.setup else {}),
            "run": f'HEAD=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)\nexec {run}\n',
        }
