"""Jobs of SLURM: with submitit's local executor, and on a real SLURM of one node that the test sets up itself."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ftp.runs.directory import runs_below

pytest.importorskip("submitit")
TRAIN = {"epochs": 1, "batch_size": 4, "learning_rate": 1e-3, "precision": "float32"}


@pytest.fixture
def recipe(ftp_recipe, ftp_tiny_model):
    def write(**train):
        model = {"id": str(ftp_tiny_model), "dtype": "float32", "device": "cpu"}
        return ftp_recipe(name="job", model=model, train={**TRAIN, **train}, watch=[])

    return write


def place(directory, **options):
    (directory / "place.yaml").write_text(yaml.safe_dump({"use": "slurm", **options}))


@pytest.mark.slow
def test_a_job_of_two_processes_by_submitits_own_executor(ftp, recipe, tmp_path):
    recipe()
    place(tmp_path, cluster="local", processes_per_node=2, minutes=5)
    done = subprocess.run(
        [sys.executable, "-m", "ftp", "run", "recipe.yaml", "--on", "place.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Job (\d+) is submitted. Ctrl-C leaves it; `kill \1` stops it", done.stderr)
    assert "report.html" in done.stdout, "the output of the first process is shown"
    [run] = runs_below(tmp_path / "runs", "job")
    assert "report" in run.stages()
    [other] = (tmp_path / "slurm").glob("*_1_log.out")
    assert "Process 1 of 2 waits" in other.read_text()


def test_slurm_that_isnt_there_is_said(ftp, recipe, tmp_path, monkeypatch):
    recipe()
    place(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    outcome = ftp("run", "recipe.yaml", "--on", "place.yaml")
    assert outcome.code == 2 and "SLURM didn't take the job" in outcome.err and "srun" in outcome.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"gpus_per_node": 2, "processes_per_node": 4}, "processes_per_node: 4 for 2 GPUs"),
        ({"cluster": "local", "nodes": 2}, "nodes: cluster: local is this machine alone"),
        ({"minutes": 1, "grace_seconds": 60}, "grace_seconds: 60 of a time limit of 60 s"),
    ],
)
def test_mistakes_of_a_placement(ftp, recipe, tmp_path, options, problem):
    recipe()
    place(tmp_path, **options)
    outcome = ftp("run", "recipe.yaml", "--on", "place.yaml")
    assert outcome.code == 2 and problem in outcome.err


# --- a real SLURM ----------------------------------------------------------------------------------------------------

CONF = """
ClusterName=one
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/slurmd.log
SlurmctldPort={port}
SlurmdPort={next_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=requeue_delay=0,bf_interval=1
MinJobAge=60
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP PreemptMode=REQUEUE
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start munged, slurmctld and slurmd; yield nothing. `apt-get install slurm-wlm munge` brings them on Debian."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing or os.geteuid():
        pytest.skip(f"needs {', '.join(missing) or 'root'}: apt-get install slurm-wlm munge")
    directory = tmp_path_factory.mktemp("slurm")
    directory.chmod(0o755)
    for name in ("state", "spool"):
        (directory / name).mkdir()
    port = 30000 + os.getpid() % 10000
    host = socket.gethostname().split(".")[0]
    cpus = os.cpu_count() or 1
    conf = directory / "slurm.conf"
    conf.write_text(CONF.format(host=host, place=directory, port=port, next_port=port + 1, cpus=cpus))
    key, sock = directory / "munge.key", directory / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    conf.write_text(conf.read_text() + f"AuthInfo=socket={sock}\n")
    munged = ["munged", "-F", "-f", f"--key-file={key}", f"--socket={sock}", f"--pid-file={directory / 'munge.pid'}"]
    munged += [f"--log-file={directory / 'munge.log'}", f"--seed-file={directory / 'munge.seed'}"]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("SLURM_CONF", str(conf))
        for command in (munged, ["slurmctld", "-D", "-f", str(conf)], ["slurmd", "-D", "-f", str(conf)]):
            log = stack.enter_context((directory / f"{command[0]}.out").open("w"))
            daemon = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(daemon.wait, 20)
            stack.callback(daemon.terminate)
            time.sleep(1)
        deadline = time.monotonic() + 30
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout:
            if time.monotonic() > deadline:
                pytest.skip(f"SLURM doesn't start: {(directory / 'slurmd.log').read_text()[-500:]}")
            time.sleep(0.5)
        yield


class Job:
    """`ftp run --on place.yaml` while it follows a job."""

    def __init__(self, directory):
        self.directory, self.log, self.waiting = directory, directory / "log.txt", 0.0
        command = [sys.executable, "-m", "ftp", "run", "recipe.yaml", "--on", "place.yaml"]
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(command, cwd=directory, stdout=stream, stderr=stream)

    def said(self):
        return self.log.read_text()

    def until(self, what, seconds=200):
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline and self.process.poll() is None, self.said()
            time.sleep(0.2)

    def id(self):
        self.until(lambda: "is submitted" in self.said())
        return re.search(r"Job (\d+) is submitted", self.said())[1]

    def events(self, name):
        runs = runs_below(self.directory / "runs", "job")
        return [event for event in (runs[-1].events() if runs else ()) if event["event"] == name]

    def runs_again(self, times):
        """Whether the run was resumed so often.

        SLURM lets a job wait for two minutes after it was queued again. Here it waits until its old processes have
        ended, which is what the wait is for.
        """
        shown = subprocess.run(["scontrol", "show", "job", self.id()], capture_output=True, text=True, check=False)
        if "JobState=PENDING Reason=BeginTime" in shown.stdout:
            self.waiting = self.waiting or time.monotonic()
            if time.monotonic() > self.waiting + 12:
                subprocess.run(["scontrol", "update", f"JobId={self.id()}", "StartTime=now"], check=False)
        else:
            self.waiting = 0.0
        return len(self.events("resume")) == times

    def until_step(self, step):
        self.until(lambda: any(event["step"] >= step for event in self.events("metric")))


LONG = {"epochs": 60, "evals_per_epoch": 0.25}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_process_and_a_time_limit_have_the_job_queued_again(slurm, recipe, tmp_path):
    recipe(**LONG)
    place(tmp_path, processes_per_node=2, minutes=10, restarts=1)
    job = Job(tmp_path)
    job.until_step(20)
    environment = f"SLURM_JOB_ID={job.id()}".encode()
    [worker] = [pid for pid in ftp_processes() if {environment, b"RANK=1"} <= variables(pid)]
    os.kill(worker, signal.SIGKILL)
    job.until(lambda: job.runs_again(1))
    job.until_step(60)
    # What SLURM does before the time limit: the signal that the job has asked for, to all of its steps.
    subprocess.run(["scancel", "--signal=USR2", job.id()], check=True)
    job.until(lambda: job.runs_again(2))
    assert job.process.wait(400) == 0, job.said()
    said = job.said()
    assert re.search(rf"process 1 of 2 \(pid {worker} on \S+\) was killed by SIGKILL", all_output(tmp_path)), said
    [run] = runs_below(tmp_path / "runs", "job")
    assert "report" in run.stages()
    checkpoints = [event["step"] for event in job.events("checkpoint")]
    assert job.events("resume")[1]["step"] in checkpoints


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_the_job_and_scancel_saves_a_checkpoint(slurm, recipe, tmp_path):
    recipe(**LONG)
    place(tmp_path, processes_per_node=1, minutes=10)
    job = Job(tmp_path)
    job.until_step(10)
    job.process.send_signal(signal.SIGINT)
    assert job.process.wait(30) == 130
    number = job.id()
    assert f"Job {number} goes on. `scancel {number}` stops it" in job.said()
    before = job.events("metric")[-1]["step"]
    deadline = time.monotonic() + 60
    while job.events("metric")[-1]["step"] <= before + 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    subprocess.run(["scancel", number], check=True)
    while subprocess.run(["squeue", "-h", "-j", number], capture_output=True, text=True).stdout.strip():
        assert time.monotonic() < deadline + 60
        time.sleep(0.2)
    last = job.events("metric")[-1]["step"]
    assert job.events("checkpoint")[-1]["step"] == last, all_output(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_error_that_would_come_again_ends_the_job(slurm, recipe, tmp_path):
    recipe()
    place(tmp_path, processes_per_node=2, minutes=10, setup=["rm recipe.yaml"])
    job = Job(tmp_path)
    assert job.process.wait(120) == 2, job.said()
    assert "recipe.yaml" in job.said() and "queued again" not in all_output(tmp_path)


def ftp_processes():
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if b"-m\0ftp\0run" in read(path / "cmdline")]


def variables(pid):
    return set(read(Path(f"/proc/{pid}/environ")).split(b"\0"))


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def all_output(directory):
    return "".join(file.read_text() for file in sorted((directory / "slurm").glob("*_log.out")))
