"""How training speeds up with processes: FTP beside TRL under accelerate's DDP, and what the launcher costs.

    python bench/scale.py [--processes 1,2] [--steps 8] [--warmup 3] [--rounds 3] [--json]
    python bench/scale.py --start [--rounds 3] [--json]

The task is that of bench/train.py: SmolLM2-135M-Instruct, steps of 8 rows of Alpaca's lengths, LoRA r=16, on one thread
a process and as many cores as processes. Both run under torchrun, take turns, and share the rows of a step out; medians
over the rounds are given: tokens per second of all processes together, the highest peak of resident memory of one, and
the efficiency: tokens per second over those of one process times their number.

`--start` measures the seconds from the command to the first optimizer step of a tiny run on two processes: once with
`ftp run --on local:2`, once with the same processes under plain torchrun.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from train import BATCH, HERE, NotRunError, alpaca_like, conditions, last_line, write_task

CONTESTANTS = {"ftp": ["run_ftp.py", "lora", "auto"], "trl": ["run_trl.py", "lora", "default"]}
LIMIT = "FTP_COLLECTIVE_SECONDS"


def torchrun(count: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *more]


def measure(name: str, count: int, task: Path) -> dict[str, Any]:
    """Run a contestant on `count` processes, and return what they report together.

    Raises:
        NotRunError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if name == "ftp":
        environment[LIMIT] = "600"
    with tempfile.TemporaryDirectory() as logs:
        script, *arguments = CONTESTANTS[name]
        command = torchrun(count, "--redirects=3", f"--log-dir={logs}")
        done = subprocess.run(
            [*command, HERE / "peers" / script, task, *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=logs,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count]),
        )
        errors = [file.read_text() for file in sorted(Path(logs).rglob("stderr.log"))]
        if done.returncode:
            raise NotRunError(f"{name} on {count}: {last_line(errors[0] if errors else done.stderr)}")
        reports = [json.loads(file.read_text().splitlines()[-1]) for file in Path(logs).rglob("stdout.log")]
    seconds = max(report["seconds"] for report in reports)
    return {"tokens_per_second": reports[0]["tokens"] / seconds, "peak_mb": max(r["peak_mb"] for r in reports)}


def scale_results(options: argparse.Namespace) -> dict[str, Any]:
    counts = [int(count) for count in options.processes.split(",")]
    texts, rows = alpaca_like((options.warmup + options.steps) * BATCH)
    found: dict[str, list[dict[str, Any]]] = {}
    not_run: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        task = write_task(Path(directory), texts, rows, warmup=options.warmup, steps=options.steps)
        for _ in range(options.rounds):
            for name, count in ((name, count) for count in counts for name in CONTESTANTS):
                try:
                    found.setdefault(f"{name}-{count}", []).append(measure(name, count, task))
                except NotRunError as reason:
                    not_run[f"{name}-{count}"] = str(reason)
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()
    }
    for name, of in medians.items():
        contestant, count = name.split("-")
        if alone := medians.get(f"{contestant}-1"):
            of["efficiency"] = of["tokens_per_second"] / alone["tokens_per_second"] / int(count)
    ratios = {
        f"vs_trl_on_{count}": medians[f"ftp-{count}"]["tokens_per_second"]
        / medians[f"trl-{count}"]["tokens_per_second"]
        for count in counts
        if f"ftp-{count}" in medians and f"trl-{count}" in medians
    }
    return {"contestants": medians, **ratios, "not_run": not_run, "conditions": conditions(options, rows)}


def start_results(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds to the first step, with the launcher and with plain torchrun."""
    commands = {
        "ftp run --on local:2": [sys.executable, "-m", "ftp", "run", "recipe.yaml", "--new", "--on", "local:2"],
        "torchrun": torchrun(2, "-m", "ftp", "run", "recipe.yaml", "--new"),
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as name:
        write_tiny_run(Path(name))
        for _ in range(options.rounds):
            for which, command in commands.items():
                found[which].append(seconds_to_first_step(command, Path(name), plain=which == "torchrun"))
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    return {"seconds": medians, "overhead": medians["ftp run --on local:2"] - medians["torchrun"], "rounds": found}


def write_tiny_run(directory: Path) -> None:
    from ftp.testing.fixtures import write_tiny_model

    write_tiny_model(directory / "model")
    rows = [{"instruction": f"Double {n}.", "response": f"{n} doubled is {2 * n}."} for n in range(64)]
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = """name: tiny
model: {use: huggingface, id: model, device: cpu}
adapter: {use: lora}
data: {train: [{path: rows.jsonl, format: {use: instruct}}]}
train: {use: sft, epochs: 1}
"""
    (directory / "recipe.yaml").write_text(recipe.replace("id: model", f"id: {directory / 'model'}"), encoding="utf-8")


def seconds_to_first_step(command: list[str], directory: Path, plain: bool) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({LIMIT: "600"} if plain else {})}
    known, began = set(directory.glob("runs/*/2*")), time.time()
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {last_line(done.stderr)}")
    (run,) = set(directory.glob("runs/*/2*")) - known
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    first = next(event["time"] for event in events if event["event"] == "metric")
    return datetime_of(first) - began


def datetime_of(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2", metavar="N,…")
    parser.add_argument("--steps", type=int, default=8, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", action="store_true", help="measure the time to the first step instead")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.cores = 1
    results = start_results(options) if options.start else scale_results(options)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, of in results.get("contestants", {}).items():
        print(f"{name:8} {of['tokens_per_second']:7.1f} tokens/s {of['peak_mb']:7,.0f} MB", end="")
        print(f"   efficiency {of['efficiency']:.2f}" if "efficiency" in of else "")
    for name, reason in results.get("not_run", {}).items():
        print(f"{name:8} not run: {reason}")
    for name, seconds in results.get("seconds", {}).items():
        print(f"{name:22} {seconds:6.1f} s to the first step")
    for name, value in results.items():
        if isinstance(value, float):
            print(f"{name:16} {value:.2f}")


if __name__ == "__main__":
    main()
