"""How long a command takes to show its help, and a run until its first step.

    python bench/startup.py [--runs 5] [--json]
    python bench/startup.py --run [--set SETTING …] [--json]

Without `--run`: FTP beside TRL, alternating. Prints the median wall time of each command and the ratio of TRL's to
FTP's. With `--run`: the quickstart of `ftp init` until the event of its first optimizer step, then it is stopped.
Prints when each stage began and each event came, beside the time that a process takes to load the model and nothing
else. Whole processes, measured from outside. From the second run on a machine, base answers come from the cache.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
PAIRS = [
    (["ftp", "--help"], ["trl", "--help"]),
    (["ftp", "run", "--help"], ["trl", "sft", "--help"]),
    (["ftp", "plugins"], ["trl", "env"]),
]


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([BIN / command[0], *command[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


LOAD = """
from ftp.plugins import load
from ftp.recipe import read
from pathlib import Path
from ftp.stages.load_model import load_base_model

recipe = read(Path("recipe.yaml"), load())
load_base_model(recipe.model, recipe.adapter, print)
"""


def until_first_step(directory: Path, settings: list[str]) -> list[tuple[float, str]]:
    """Run the recipe in a directory until its first step; return what came when, in seconds from the start."""
    began, lines = time.perf_counter(), list[tuple[float, str]]()
    chosen = [f"--set={setting}" for setting in settings]
    run = subprocess.Popen(
        [BIN / "ftp", "run", "recipe.yaml", "--new", *chosen], cwd=directory, stderr=subprocess.PIPE, text=True
    )

    def read() -> None:
        for line in run.stderr or ():
            lines.append((time.perf_counter() - began, line.strip()))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    seen = 0
    while run.poll() is None:
        time.sleep(0.02)
        events = next((directory / "runs").glob("*/*/events.jsonl"), None)
        found = events.read_text(encoding="utf-8").splitlines() if events else []
        for text in found[seen:]:
            event = json.loads(text)["event"]
            if event not in ("note", "watcher"):  # they are lines, too
                lines.append((time.perf_counter() - began, f"[{event}]"))
            if event == "metric":
                run.send_signal(signal.SIGTERM)
                run.wait()
                reader.join()
                at = next(seconds for seconds, line in lines if line == "[metric]")
                return sorted(entry for entry in lines if entry[0] <= at)
        seen = len(found)
    raise SystemExit(f"the run ended before its first step: {lines[-1:]}")


def first_step(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        subprocess.run([BIN / "ftp", "init"], cwd=directory, check=True, stdout=subprocess.DEVNULL)
        alone = []
        for _ in range(2):  # the first dequantises the model and warms the file cache
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", LOAD], cwd=directory, check=True, stdout=subprocess.DEVNULL)
            alone.append(time.perf_counter() - began)
        timeline = until_first_step(directory, options.set)
    return {"loading_alone": alone[-1], "first_step": timeline[-1][0], "timeline": timeline}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--run", action="store_true", help="a run until its first step")
    parser.add_argument("--set", action="append", default=[], help="for the run, as `ftp run` takes it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.run:
        helps(options)
        return
    found = first_step(options)
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for seconds, line in found["timeline"]:
        print(f"{seconds:7.1f} s  {line}")
    ratio = found["first_step"] / found["loading_alone"]
    alone = found["loading_alone"]
    print(f"first step after {found['first_step']:.1f} s, {ratio:.1f} times the {alone:.1f} s of loading alone")


def helps(options: argparse.Namespace) -> None:
    results = []
    for ours, theirs in PAIRS:
        times: tuple[list[float], list[float]] = ([], [])
        for run in range(options.runs + 1):
            for command, found in zip((ours, theirs), times, strict=True):
                took = seconds(command)
                if run:  # the first warms the file cache
                    found.append(took)
        a, b = (statistics.median(found) for found in times)
        results.append({"ftp": " ".join(ours), "trl": " ".join(theirs), "ftp_s": a, "trl_s": b, "trl_over_ftp": b / a})
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for r in results:
        print(f"{r['ftp']:16} {r['ftp_s']:6.2f} s   {r['trl']:16} {r['trl_s']:6.2f} s   {r['trl_over_ftp']:5.1f}x")


if __name__ == "__main__":
    main()
