"""A TrainJob of Kubeflow on Kubernetes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import ftp
from ftp_plugins.launchers.job_files import hand_over, job_name, torchrun, write_job

MOUNT = "work"
"""Name of the volume in the pods."""


class Kubernetes(ftp.Launcher):
    """A TrainJob of Kubeflow Trainer (2.3 or newer): writes the manifest, and submits it where kubectl is installed.

    The volume holds this directory, with recipe and data, and gets the run's directory.
    """

    requires: ClassVar[tuple[str, ...]] = ("kubeflow_trainer_api",)

    image: str
    """Container image with FTP in it."""
    volume: str
    """PersistentVolumeClaim that every node mounts (ReadWriteMany for several nodes)."""
    directory: str = "/work"
    """Where it is mounted; the job's working directory."""
    nodes: int = Field(default=1, ge=1)
    """Number of machines."""
    gpus_per_node: int = Field(default=1, ge=0)
    """GPUs of each machine, with a process each. 0 for a CPU."""
    processes_per_node: int | None = Field(default=None, ge=1)
    """Processes of each machine. Without it, one for each GPU, or one."""
    cpus: str | None = None
    """Processors of each machine, as Kubernetes writes them: "16"."""
    memory: str | None = None
    """Memory of each machine, as Kubernetes writes it: 128Gi."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that the job may run on, such as the GPU kind."""
    runtime: str = "torch-distributed"
    """ClusterTrainingRuntime of the cluster."""
    namespace: str = "default"
    """Namespace of the job."""
    env: dict[str, str] = {}
    """Environment variables."""
    secrets: dict[str, str] = {}
    """Environment variables from secrets, as `secret/key`: {OPENAI_API_KEY: judge/key}."""
    restarts: int = Field(default=3, ge=0)
    """How often the processes are started again after one has failed; they resume the run."""
    collective_minutes: float = Field(default=10, gt=0)
    """Longest time that a process waits for the others in training."""
    submit: bool = True
    """Whether to submit the file where `kubectl` is installed. Off: write it and print the command."""
    file: Path | None = None
    """File to write. Without it, NAME.trainjob.yaml in this directory."""

    def problems(self) -> list[str]:
        found = [f"secrets.{name}: write secret/key" for name, where in self.secrets.items() if where.count("/") != 1]
        found += [f"env.{name}: is among the secrets too" for name in self.env if name in self.secrets]
        if not self.directory.startswith("/"):
            found.append("directory: must be an absolute path of the container")
        if self.gpus_per_node and (self.processes_per_node or 0) > self.gpus_per_node:
            found.append(f"processes_per_node: {self.processes_per_node} for {self.gpus_per_node} GPUs")
        return found

    def launch(self, job: ftp.Launch) -> int:
        file, name = self.file or Path(f"{job.name}.trainjob.yaml"), job_name(job.name)
        manifest = self.manifest(job)
        problem = schema_problem(manifest)
        if problem:
            raise ftp.LaunchError(f"the manifest isn't a TrainJob of the installed kubeflow_trainer_api: {problem}")
        write_job(file, manifest, f"Written by `ftp run --on` for the run {job.name}.")
        pods = f"jobset.sigs.k8s.io/jobset-name={name},batch.kubernetes.io/job-completion-index=0"
        then = [
            f"`kubectl logs -f -n {self.namespace} -l {pods}` follows it.",
            f"`kubectl delete trainjob {name} -n {self.namespace}` stops it.",
        ]
        return hand_over(job, file, ["kubectl", "create", "-f", str(file)], then, submit=self.submit)

    def manifest(self, job: ftp.Launch) -> dict[str, Any]:
        """Return the TrainJob (trainer.kubeflow.org/v1alpha1)."""
        variables = {"nodes": "$PET_NNODES", "processes": "$PET_NPROC_PER_NODE", "node_rank": "PET_NODE_RANK"}
        variables |= {"address": "$PET_MASTER_ADDR", "port": "$PET_MASTER_PORT"}
        run = torchrun(job, variables, self.restarts, gpus=self.gpus_per_node > 0)
        environment = {"FTP_COLLECTIVE_SECONDS": f"{self.collective_minutes * 60:g}", **self.env}
        env: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in environment.items()]
        for key, where in self.secrets.items():
            secret, entry = where.split("/")
            env.append({"name": key, "valueFrom": {"secretKeyRef": {"name": secret, "key": entry}}})
        wanted = {"cpu": self.cpus, "memory": self.memory, "nvidia.com/gpu": self.gpus_per_node or None}
        limits = {key: str(value) for key, value in wanted.items() if value is not None}
        trainer = {
            "image": self.image,
            "command": ["bash", "-c", f"cd {shlex.quote(self.directory)} && exec {run}"],
            "numNodes": self.nodes,
            "numProcPerNode": self.processes_per_node or self.gpus_per_node or 1,
            "env": env,
            **({"resourcesPerNode": {"limits": limits, "requests": limits}} if limits else {}),
        }
        return {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": job_name(job.name), "namespace": self.namespace},
            "spec": {
                "runtimeRef": {"name": self.runtime},
                "trainer": trainer,
                "runtimePatches": [{"manager": "ftp", "trainingRuntimeSpec": self._patch()}],
            },
        }

    def _patch(self) -> dict[str, Any]:
        """Return what the runtime's pods get: the volume, and the nodes that they may run on."""
        pod: dict[str, Any] = {
            "volumes": [{"name": MOUNT, "persistentVolumeClaim": {"claimName": self.volume}}],
            "containers": [{"name": "node", "volumeMounts": [{"name": MOUNT, "mountPath": self.directory}]}],
            "terminationGracePeriodSeconds": 120,
        }
        if self.node_selector:
            pod["nodeSelector"] = self.node_selector
        node = {"name": "node", "template": {"spec": {"template": {"spec": pod}}}}
        return {"template": {"spec": {"replicatedJobs": [node]}}}


def schema_problem(manifest: dict[str, Any]) -> str | None:
    """Return what Kubeflow's own models of a TrainJob find wrong with a manifest, or None.

    They drop keys that they don't know, so it has to come back unchanged.
    """
    from kubeflow_trainer_api.models.trainer_v1alpha1_train_job import TrainerV1alpha1TrainJob
    from pydantic import ValidationError

    try:
        parsed = TrainerV1alpha1TrainJob.from_dict(manifest)
    except ValidationError as error:
        return str(error)
    back = parsed.to_dict() if parsed else {}
    return next((f"{path} is unknown" for path in _paths(manifest) if path not in set(_paths(back))), None)


def _paths(value: Any, path: str = "") -> list[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, item in items for deeper in _paths(item, f"{path}.{key}"))]
