"""One training on several processes: the same losses on any number of them, and processes that are killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ftp.runs.directory import RunDirectory
from ftp.runs.events import done_until

TRAIN = {"epochs": 2, "batch_size": 4, "gradient_accumulation": 2, "learning_rate": 1e-3, "evals_per_epoch": 1.5}
"""Three steps an epoch, the last one with six rows; a checkpoint every two."""
LONG = {"epochs": 25, "batch_size": 4, "gradient_accumulation": 2, "evals_per_epoch": 0.5, "precision": "float32"}


def trained_together(model, directory, orders):
    """Train as each order says; return the events and the weights of each by name."""
    script = Path(__file__).with_name("together.py")
    command = [sys.executable, str(script), str(model), str(directory), json.dumps(orders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for name in (order["name"] for order in orders):
        events = [json.loads(line) for line in (directory / f"{name}.jsonl").read_text().splitlines()]
        weights = directory / f"{name}.safetensors"
        found[name] = events, load_file(weights) if weights.exists() else {}
    return found


def orders_of(adapter, counts, **more):
    return [{"name": f"{adapter}-{n}", "count": n, "adapter": adapter, "train": TRAIN, **more} for n in counts]


@pytest.fixture(scope="module")
def trained(ftp_tiny_model, tmp_path_factory):
    """The same training on 1 and 2 processes."""
    orders = orders_of("lora", (1, 2), options={"r": 4})
    return trained_together(ftp_tiny_model, tmp_path_factory.mktemp("together"), orders)


@pytest.fixture(scope="module")
def preferences(ftp_tiny_model, tmp_path_factory):
    """Trainings on preferences, on 1 and 2 processes."""
    orders = orders_of("lora", (1, 2), options={"r": 4})
    orders = [{**order, "name": f"{t}-{order['count']}", "trainer": t} for t in ("dpo", "kto") for order in orders]
    return trained_together(ftp_tiny_model, tmp_path_factory.mktemp("preferences"), orders)


def values(events, event, key="loss"):
    return {e["step"]: e[key] for e in events if e["event"] == event}


def assert_agree(one, other, tolerance=1e-5):
    (events, weights), (others, their_weights) = one, other
    for event in ("metric", "validation"):
        assert values(others, event) == pytest.approx(values(events, event), abs=tolerance)
    assert values(others, "metric", "tokens") == values(events, "metric", "tokens")
    for name, weight in weights.items():
        assert float((weight - their_weights[name]).abs().max()) < tolerance, name


def test_losses_and_weights_are_those_of_one_process(trained):
    assert len(values(trained["lora-1"][0], "metric")) == 6
    assert_agree(trained["lora-1"], trained["lora-2"])


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["dpo", "kto"])
def test_figures_of_preferences_are_means_over_all_processes(preferences, trainer):
    assert_agree(preferences[f"{trainer}-1"], preferences[f"{trainer}-2"])
    alone, shared = (preferences[f"{trainer}-{count}"][0] for count in (1, 2))
    figures = {"margin", "chosen_reward", "rejected_reward", "chosen_log_prob", "rejected_log_prob"}
    for name in figures | ({"accuracy"} if trainer == "dpo" else {"kl"}):
        assert values(shared, "metric", name) == pytest.approx(values(alone, "metric", name), abs=1e-4), name
        assert values(shared, "validation", name) == pytest.approx(values(alone, "validation", name), abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "more"),
    [("lora", {"options": {"r": 4}}), ("full", {}), ("lora", {"trainer": "dpo"}), ("lora", {"trainer": "kto"})],
)
def test_losses_and_weights_on_four_processes(ftp_tiny_model, tmp_path, adapter, more):
    found = trained_together(ftp_tiny_model, tmp_path, orders_of(adapter, (1, 2, 4), **more))
    for count in (2, 4):
        assert_agree(found[f"{adapter}-1"], found[f"{adapter}-{count}"])


def test_the_fast_path_stays_on(trained):
    (speed,) = [event for event in trained["lora-2"][0] if event["event"] == "speed"]
    assert "packed rows" in speed["on"] and speed["why_not"] is None


@pytest.mark.slow
def test_a_checkpoint_serves_any_number_of_processes(ftp_tiny_model, tmp_path):
    """Killed at step 3 on 4 processes and at step 5 on 2, it ends on 1; checkpoints are those of steps 2 and 4."""
    orders = orders_of("lora", (1,), options={"r": 4})
    for count, die in ((4, 3), (2, 5), (1, None)):
        orders += [{**orders[0], "name": f"part-{count}", "count": count, "run": "parts", "die": die}]
    trained = trained_together(ftp_tiny_model, tmp_path, orders)
    parts = [event for name in ("part-4", "part-2", "part-1") for event in trained[name][0]]
    assert [event["step"] for event in parts if event["event"] == "resume"] == [2, 4]
    assert_agree(trained["lora-1"], (done_until(parts), trained["part-1"][1]))


@pytest.mark.slow
def test_qlora_on_two_processes_is_that_of_one(ftp_tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    orders = orders_of("qlora", (1, 2), options={"r": 4, "compute_dtype": "float32"})
    found = trained_together(ftp_tiny_model, tmp_path, orders)
    assert_agree(found["qlora-1"], found["qlora-2"])


# --- real `ftp run --on`, with real kills


class Launched:
    """`ftp run --on` while it runs."""

    def __init__(self, directory, *arguments):
        self.directory = directory
        self.log = directory / "log.txt"
        with self.log.open("a") as stream:
            command = [sys.executable, "-m", "ftp", "run", "recipe.yaml", *arguments]
            self.process = subprocess.Popen(command, cwd=directory, stdout=stream, stderr=stream)

    def run(self):
        found = sorted(self.directory.glob("runs/*/2*/run.lock.json"))
        return RunDirectory(found[-1].parent) if found else None

    def until_step(self, step, resumes=0, seconds=600):
        """Wait until the run has reached a step, after so many resumptions."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            events = self.run().events() if self.run() else []
            steps = [event["step"] for event in events if event["event"] == "metric"]
            resumed = sum(event["event"] == "resume" for event in events)
            if steps and steps[-1] >= step and resumed >= resumes:
                return
            time.sleep(0.05)
        raise AssertionError(self.said())

    def worker(self, rank):
        """The pid of a process by its number."""
        for child in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            if f"RANK={rank}".encode() in environment:
                return int(child)
        raise AssertionError(f"no process {rank}")

    def end(self, seconds=600):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
            raise AssertionError(self.said()) from None

    def said(self):
        return self.log.read_text()


def curve(run):
    return {e["step"]: e["loss"] for e in done_until(run.events()) if e["event"] == "metric"}


@pytest.fixture
def long_recipe(ftp_recipe, ftp_tiny_model):
    model = {"id": str(ftp_tiny_model), "dtype": "float32", "device": "cpu"}
    return ftp_recipe(model=model, train=LONG, watch=[])


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in /proc")
@pytest.mark.slow
def test_a_killed_process_is_started_again_and_one_process_finishes_the_run(ftp, long_recipe, tmp_path):
    (tmp_path / "place.yaml").write_text("{use: local, processes: 2, restarts: 1}\n")
    launched = Launched(tmp_path, "--on", "place.yaml")
    launched.until_step(8)
    os.kill(first := launched.worker(1), signal.SIGKILL)
    launched.until_step(14, resumes=1)
    os.kill(second := launched.worker(1), signal.SIGKILL)
    assert launched.end() == 2
    said = launched.said()
    for pid in (first, second):
        assert re.search(rf"process 1 of 2 \(pid {pid} on \S+\) was killed by SIGKILL", said), said
    assert "Restart 1 of 1: the run is resumed." in said and "Traceback" not in said
    assert len(list(tmp_path.glob("runs/*/2*"))) == 1

    assert ftp("run", "recipe.yaml").code == 0
    assert ftp("run", "recipe.yaml", "--runs", "alone").code == 0
    run, alone = launched.run(), RunDirectory(next(tmp_path.glob("alone/*/2*")))
    assert sum(event["event"] == "resume" for event in run.events()) == 2
    assert curve(run) == pytest.approx(curve(alone), abs=1e-5)
    assert not (run.path / "stacks").exists()


HANGS = """
import time
from pathlib import Path
import ftp

class Hangs(ftp.Watcher):
    '''Sleeps once, in training and not in its rehearsal.'''

    def see(self, event):
        training = any(Path("runs").glob("*/*/checkpoints/step-*"))
        if training and event["event"] == "metric" and not Path("slept").exists():
            Path("slept").touch()
            time.sleep(600)

@ftp.hookimpl
def ftp_watchers():
    return {"hangs": Hangs}
"""


@pytest.mark.slow
def test_a_process_that_hangs_ends_by_the_limit_with_all_stacks(ftp_recipe, ftp_tiny_model, tmp_path):
    model = {"id": str(ftp_tiny_model), "dtype": "float32", "device": "cpu"}
    ftp_recipe(model=model, train={**LONG, "epochs": 4}, watch=[{"use": "hangs"}])
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "place.yaml").write_text(
        "{use: local, processes: 2, restarts: 1, collective_minutes: 0.25, grace_seconds: 3}"
    )
    launched = Launched(tmp_path, "--on", "place.yaml", "-p", "hangs.py")
    assert launched.end(900) == 0, launched.said()
    assert re.search(r"process 0 \(pid \d+ on \S+\) didn't answer within 15 s", launched.said()), launched.said()
    stacks = launched.run().path / "stacks"
    assert "in see" in (stacks / "process-0.txt").read_text()
    assert "from_first" in (stacks / "process-1.txt").read_text()


@pytest.mark.slow
def test_ctrl_c_saves_a_checkpoint_and_says_how_to_resume(long_recipe, tmp_path):
    launched = Launched(tmp_path, "--on", "local:2")
    launched.until_step(8)
    launched.process.send_signal(signal.SIGINT)
    assert launched.end() == 130
    assert f"`ftp resume {launched.run().path.relative_to(tmp_path)}` resumes it" in launched.said()
    assert any(event["event"] == "checkpoint" for event in launched.run().events())


# --- placements


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{use: local, proceses: 2}", "place.yaml:1:14: on.proceses: unknown key; did you mean 'processes'?"),
        ("{use: local, processes: 0}", "place.yaml:1:14: on.processes: must be"),
        ("{use: locale}", "on.use: nothing called \"locale\" is installed; did you mean 'local'?"),
        ("- local", "a placement is a block such as"),
    ],
)
def test_mistakes_in_a_placement_have_their_place(ftp, ftp_recipe, tmp_path, text, problem):
    ftp_recipe()
    (tmp_path / "place.yaml").write_text(text)
    outcome = ftp("run", "recipe.yaml", "--on", "place.yaml")
    assert outcome.code == 2 and problem in outcome.err


def test_an_unknown_launcher_is_named(ftp, ftp_recipe):
    ftp_recipe()
    outcome = ftp("run", "recipe.yaml", "--on", "lokal")
    assert outcome.code == 2 and "did you mean 'local'?" in outcome.err


def test_the_schema_of_placements_is_printed(ftp):
    import jsonschema

    schema = json.loads(ftp("schema", "--placement").out)
    jsonschema.validate({"use": "local", "processes": 2}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"use": "local", "processes": "two"}, schema)


def test_rows_are_dealt_by_tokens_and_none_is_lost():
    from ftp_plugins.speed.torch_batches import Batches
    from ftp_plugins.speed.torch_shares import Shares

    lengths = [3 + (7 * n) % 50 for n in range(45)]
    alone = Batches(lengths, 4, 1, False)
    alone.set_epoch(2)
    planned, steps = list(alone), []
    for rank in range(3):
        share = Shares(Batches(lengths, 4, 1, False), 3, rank, 3)
        share.set_epoch(2)
        steps.append(list(share))
        assert len(share) == len(steps[-1]) == 4
    for step in range(4):
        rows = [row for batch in planned[3 * step : 3 * step + 3] for row in batch]
        assert sorted(row for share in steps for row in share[step]) == sorted(rows)
        tokens = [sum(lengths[row] for row in share[step]) for share in steps]
        assert max(tokens) - min(tokens) <= max(lengths)
