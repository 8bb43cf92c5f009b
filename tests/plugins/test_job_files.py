"""Job files for Kubernetes and SkyPilot: checked against their own schemas, and their commands really run."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from ftp_plugins.launchers.kubernetes import schema_problem

KUBERNETES = {"use": "kubernetes", "image": "registry.example/ftp:1", "volume": "runs"}


@pytest.fixture
def on(ftp, ftp_recipe, tmp_path, monkeypatch):
    """Run `ftp run recipe.yaml --on` with a placement, without any client on the path."""
    ftp_recipe(name="contract_risk")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def run(placement, *arguments):
        (tmp_path / "place.yaml").write_text(yaml.safe_dump(placement))
        return ftp("run", "recipe.yaml", "--on", "place.yaml", *arguments)

    return run


def client(directory, name, code=0):
    """Put a client on the path that notes its arguments."""
    (directory / "bin").mkdir(exist_ok=True)
    file = directory / "bin" / name
    file.write_text(f'#!/bin/sh\necho "$@" > {directory / "submitted"}\nexit {code}\n')
    file.chmod(0o755)


def test_kubernetes_gets_a_manifest_that_kubeflow_takes(on, tmp_path):
    more = {"nodes": 2, "gpus_per_node": 8, "memory": "512Gi", "secrets": {"OPENAI_API_KEY": "judge/key"}}
    outcome = on({**KUBERNETES, **more, "node_selector": {"gpu": "h100"}}, "--set", "seed=7")
    assert outcome.code == 0, outcome.err
    assert "kubectl create -f contract_risk.trainjob.yaml" in outcome.err and "stops it" in outcome.err
    manifest = yaml.safe_load((tmp_path / "contract_risk.trainjob.yaml").read_text())
    assert schema_problem(manifest) is None
    assert manifest["metadata"]["name"] == "contract-risk"
    trainer = manifest["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "512Gi", "nvidia.com/gpu": "8"}
    assert {"name": "FTP_COLLECTIVE_SECONDS", "value": "600"} in trainer["env"]
    assert trainer["env"][-1]["valueFrom"]["secretKeyRef"] == {"name": "judge", "key": "key"}
    command = trainer["command"][-1]
    assert command.startswith("cd /work && exec python -m torch.distributed.run")
    assert "-m ftp run recipe.yaml --set=seed=7" in command and str(tmp_path) not in command


def test_a_key_that_kubeflow_doesnt_know_is_named(on, tmp_path):
    on(KUBERNETES)
    manifest = yaml.safe_load((tmp_path / "contract_risk.trainjob.yaml").read_text())
    manifest["spec"]["trainer"]["numProcsPerNode"] = 2
    assert schema_problem(manifest) == ".spec.trainer.numProcsPerNode is unknown"
    manifest["spec"]["trainer"]["numNodes"] = "two"
    assert "numNodes" in schema_problem(manifest)


def test_the_client_submits_where_it_is_installed(on, tmp_path):
    client(tmp_path, "kubectl")
    outcome = on(KUBERNETES)
    assert outcome.code == 0 and "kubectl delete trainjob contract-risk -n default" in outcome.err
    assert (tmp_path / "submitted").read_text() == "create -f contract_risk.trainjob.yaml\n"
    (tmp_path / "submitted").unlink()
    outcome = on({**KUBERNETES, "submit": False})
    assert outcome.code == 0 and "Submit it with:\n  kubectl create" in outcome.err
    assert not (tmp_path / "submitted").exists()
    client(tmp_path, "kubectl", code=1)
    outcome = on(KUBERNETES)
    assert outcome.code == 2 and "ended with code 1; contract_risk.trainjob.yaml is kept" in outcome.err


@pytest.mark.parametrize(
    ("placement", "problem"),
    [
        ({"use": "kubernetes", "image": "a"}, "on.volume: is missing"),
        ({**KUBERNETES, "secrets": {"KEY": "judge"}}, "secrets.KEY: write secret/key"),
        ({**KUBERNETES, "directory": "work"}, "directory: must be an absolute path of the container"),
        ({**KUBERNETES, "gpus_per_node": 2, "processes_per_node": 4}, "processes_per_node: 4 for 2 GPUs"),
        ({"use": "skypilot", "accelerators": "H100:x"}, "accelerators: write the kind and the number, as in H100:8"),
        ({"use": "skypilot", "nodes": 2}, "mounts: several machines need one that all of them see"),
        ({"use": "skypilot", "spot": True}, "mounts: a machine that is reclaimed takes the run with it"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(on, tmp_path, placement, problem):
    outcome = on(placement)
    assert outcome.code == 2 and problem in outcome.err, outcome.err
    assert not list(tmp_path.glob("*.trainjob.yaml")) and not list(tmp_path.glob("*.sky.yaml"))


def test_what_the_machines_lack_is_refused(on, tmp_path):
    assert "leads out of this directory" in on(KUBERNETES, "--runs", "../runs").err
    assert "--new: a job that is started again" in on(KUBERNETES, "--new").err


SKY = {"use": "skypilot", "accelerators": "H100:8", "nodes": 2, "mounts": {"/runs": "s3://bucket/runs"}}
SKY |= {"secrets": ["OPENAI_API_KEY"], "env": {"HF_HOME": "/runs/hub"}, "infra": "aws", "cpus": "32+", "spot": True}


def test_skypilot_gets_a_task(on, tmp_path):
    outcome = on(SKY, "--runs", "/runs")
    assert outcome.code == 0, outcome.err
    expected = "sky jobs launch -n contract-risk -y -d --secret OPENAI_API_KEY contract_risk.sky.yaml"
    assert expected in outcome.err and "`sky jobs cancel -n contract-risk` stops it" in outcome.err
    task = yaml.safe_load((tmp_path / "contract_risk.sky.yaml").read_text())
    assert task["resources"] == {"accelerators": "H100:8", "infra": "aws", "cpus": "32+", "use_spot": True}
    assert task["secrets"] == {"OPENAI_API_KEY": None}, "no secret is ever written"
    assert "--runs=/runs" in task["run"]


VALIDATE = """
import json, sys
from sky.utils import common_utils, schemas
task = json.load(sys.stdin)
common_utils.validate_schema(task.get("resources", {}), schemas.get_resources_schema(), "resources: ")
common_utils.validate_schema(task, schemas.get_task_schema(), "task: ")
import sky
task["resources"].pop("accelerators")  # the catalogue of accelerators is on the network
task["resources"].pop("infra")
task["workdir"], task["file_mounts"] = None, {}
sky.Task.from_yaml_config(task, secrets_overrides=[("OPENAI_API_KEY", "x")]).validate()
"""


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(600)
def test_skypilot_takes_the_task(on, tmp_path, monkeypatch):
    """In an environment of its own: SkyPilot needs an older click."""
    assert on(SKY, "--runs", "/runs").code == 0
    python = tmp_path / "sky" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "sky")], check=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [python, "-m", "pip", "install", "-q", "skypilot>=0.14,<0.15"]
    if subprocess.run(command, check=False, timeout=400).returncode:
        pytest.skip("SkyPilot can't be installed")
    task = yaml.safe_load((tmp_path / "contract_risk.sky.yaml").read_text())
    done = subprocess.run(
        [python, "-c", VALIDATE], input=json.dumps(task), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_command_of_a_manifest_trains_on_two_machines(ftp, ftp_recipe, ftp_tiny_model, tmp_path):
    """Two pods, as far as processes see them: the variables that Kubeflow sets, and one directory."""
    from ftp.runs.directory import runs_below

    ftp_recipe(name="pods", model={"id": str(ftp_tiny_model), "dtype": "float32", "device": "cpu"}, watch=[])
    place = {**KUBERNETES, "nodes": 2, "gpus_per_node": 0, "directory": str(tmp_path), "submit": False}
    (tmp_path / "place.yaml").write_text(yaml.safe_dump(place))
    assert ftp("run", "recipe.yaml", "--on", "place.yaml").code == 0
    manifest = yaml.safe_load((tmp_path / "pods.trainjob.yaml").read_text())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    pods = []
    for rank in range(2):
        variables = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank)}
        variables |= {"PET_MASTER_ADDR": "localhost", "PET_MASTER_PORT": "29411", "FTP_COLLECTIVE_SECONDS": "60"}
        environment = {**os.environ, **variables, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        with (tmp_path / f"pod-{rank}.txt").open("w") as log:
            command = manifest["spec"]["trainer"]["command"]
            pods.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    codes = [pod.wait(250) for pod in pods]
    said = [(tmp_path / f"pod-{rank}.txt").read_text() for rank in range(2)]
    assert codes == [0, 0], said
    assert any("Process 1 of 2 waits" in text for text in said)
    [run] = runs_below(tmp_path / "runs", "pods")
    assert "report" in run.stages()
