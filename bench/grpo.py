"""Does GRPO lift a held-out score from a start by supervised fine-tuning? Sorting digits with 123,200 weights.

    python bench/grpo.py [--seeds 1] [--out DIRECTORY]

Both trainings are runs of FTP with recipes of their own: first `sft` on sorted rows, stopped before it has learnt them
all; then `grpo` from that run with `exact_match` as the reward, on prompts that neither training nor the held-out set
has. Printed is the held-out exact match of base and tuned of each run with its paired interval. The score is that of
the reward: the task is the goal here, and nothing else is measured by it.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from ftp.testing.fixtures import write_tiny_model

DIGITS = 5
SFT_ROWS, GRPO_ROWS, HELD_OUT = 3000, 306, 200
SFT = {"use": "sft", "epochs": 1.6, "batch_size": 32, "learning_rate": 3e-3, "evals_per_epoch": 1}
GRPO = {
    "use": "grpo", "rewards": [{"use": "exact_match"}], "epochs": 9, "batch_size": 16, "generations": 8,
    "max_new_tokens": 12, "learning_rate": 3e-4, "temperature": 0.6, "evals_per_epoch": 1,
}  # fmt: skip


def write_rows(directory: Path) -> None:
    """Write rows that are each in one file only."""
    draw, seen = random.Random(1), set[tuple[int, ...]]()
    for name, count in (("sft", SFT_ROWS), ("grpo", GRPO_ROWS), ("held-out", HELD_OUT)):
        lines = []
        while len(lines) < count:
            digits = tuple(draw.randrange(10) for _ in range(DIGITS))
            if digits not in seen:
                seen.add(digits)
                row = {"instruction": " ".join(map(str, digits)), "response": " ".join(map(str, sorted(digits)))}
                lines.append(json.dumps(row))
        (directory / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def run(directory: Path, name: str, model: dict[str, object], rows: str, train: dict[str, object], seed: int) -> Path:
    """Run a recipe and return the run directory."""
    source = {"format": {"use": "instruct"}}
    recipe = {
        "name": f"{name}-{seed}",
        "seed": seed,
        "model": {**model, "device": "cpu", "dtype": "float32"},
        "adapter": {"use": "full"},
        "data": {
            "train": [{"path": f"{rows}.jsonl", **source}],
            "validation": 50 / (SFT_ROWS if rows == "sft" else GRPO_ROWS),
            "evals": {"held_out": {"path": "held-out.jsonl", **source}},
        },
        "train": train,
        "evaluate": [{"use": "exact_match"}],
        "answers": {"max_new_tokens": 12, "batch_size": 128},
    }
    file = directory / f"{name}-{seed}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    subprocess.run([sys.executable, "-m", "ftp", "run", file.name], cwd=directory, check=True, stdout=sys.stderr)
    return max((directory / "runs" / f"{name}-{seed}").iterdir())


def main() -> None:
    """Run both trainings for every seed and print what the evaluations say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    directory = options.out or Path(tempfile.mkdtemp(prefix="ftp-grpo-"))
    directory.mkdir(parents=True, exist_ok=True)
    write_rows(directory)
    write_tiny_model(directory / "model")
    for seed in range(1, options.seeds + 1):
        taught = run(directory, "sft", {"use": "huggingface", "id": "./model"}, "sft", SFT, seed)
        lifted = run(directory, "grpo", {"use": "run", "path": str(taught)}, "grpo", GRPO, seed)
        for which in (taught, lifted):
            [evaluation] = json.loads((which / "evaluation.json").read_text())["evaluations"]
            [metric] = evaluation["metrics"]
            found = metric["difference"]
            print(
                f"seed {seed} {which.parent.name}: base {metric['base']:.3f}, tuned {metric['tuned']:.3f}, "
                f"difference {found['mean']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}], n={found['n']}"
            )
    print(directory)


if __name__ == "__main__":
    main()
