"""Made-up runs on disk, written by the same classes as real ones."""

import dataclasses
import json
import math
import random

import yaml

from ftp import Answer, Evaluation, Example, Message
from ftp.data.examples import write_examples
from ftp.data.ledger import Ledger
from ftp.records.answers import write_answers
from ftp.results import answers_file, finished
from ftp.runs.directory import RunDirectory
from ftp.stats.paired import adjusted, on_subsets, paired_metric
from ftp.types import TokenLoss

TEXT = """the patient should take this medicine with water and food once a day unless a doctor says otherwise because
some people feel dizzy or tired at first and those with kidney disease need a lower dose to avoid harm while symptoms
such as fever cough rash pain or swelling that last for more than three days call for a visit"""
WORDS = TEXT.split()


def sentence(chance, length):
    text = ""
    while len(text) < length:
        text += " ".join(chance.choices(WORDS, k=chance.randint(6, 14))).capitalize() + ". "
    return text[:length].strip()


def near(chance, reference, share):
    """The reference with that share of its words kept."""
    return " ".join(word if chance.random() < share else chance.choice(WORDS) for word in reference.split())


def write_run(
    root,
    *,
    n=24,
    length=220,
    name="medicine",
    id="20260101-120000-abcd",
    poison="",
    judged=True,
    subsets=True,
    windows=False,
):
    """Write a finished run below `root` and return its `RunDirectory`.

    Args:
        n: examples of the eval set.
        length: characters of each text.
        poison: put into every text that comes from data or models.
        judged: whether judge, pairwise and forgetting were used too.
        subsets: whether the ledger knew of leaks.
        windows: whether the general text of forgetting is on file, as many windows as examples.
    """
    chance = random.Random(7)
    directory = RunDirectory(root / name / id)
    (directory.path / "answers").mkdir(parents=True)
    (directory.path / "model").mkdir()
    examples = []
    for index in range(n):
        question = f"{poison}What should I know about treatment number {index}? {sentence(chance, length // 4)}"
        turns = (Message("system", "You are a careful pharmacist."), Message("user", question))
        reference = poison + sentence(chance, length)
        examples.append(Example((*turns, Message("assistant", reference)), id=f"heldout.jsonl:{index + 1}"))
    said = {
        who: [Answer(poison + near(chance, e.reference, share), length // 4, chance.random() < 0.9) for e in examples]
        for who, share in (("base", 0.25), ("tuned", 0.7))
    }
    losses = {
        who: [TokenLoss(most * chance.uniform(30, 60), 40) for _ in examples]
        for who, most in (("base", 2), ("tuned", 1))
    }
    write_examples(directory.path / "data" / "eval-heldout.arrow", examples)
    write_examples(directory.path / "data" / "validation.arrow", [])
    for who in ("base", "tuned"):
        write_answers(answers_file(directory, who, "heldout"), examples, said[who], losses[who])
    if windows:
        texts = [Example(text=poison + sentence(chance, length), id=f"general.txt:{at + 1}") for at in range(n)]
        write_examples(directory.path / "data" / "eval-general-text.arrow", texts)
        for who in ("base", "tuned"):
            write_answers(answers_file(directory, who, "general-text"), texts, [], losses[who])
    evaluations = _evaluations(chance, n, poison, judged, subsets)
    directory.write_json("evaluation.json", [dataclasses.asdict(evaluation) for evaluation in evaluations])
    _write_rest(directory, chance, examples, poison)
    return directory


def read_run(root, **options):
    return finished(write_run(root, **options))


def _evaluations(chance, n, poison, judged, subsets):
    def scores(low, high):
        return [chance.uniform(low, high) for _ in range(n)]

    loss = paired_metric("nll", scores(2, 3), scores(1, 2), higher_is_better=False)
    right = [[float(chance.random() < share) for _ in range(n)] for share in (0.3, 0.35)]
    found = [
        Evaluation((loss,), ("812 tokens",), "loss", "heldout", n),
        Evaluation((paired_metric("score", *right),), (), "exact_match", "heldout", n),
    ]
    if judged:
        metrics = []
        for criterion, gain in (("accuracy", 1.0), ("helpfulness", 0.7), ("tone", -0.9)):
            base = [float(chance.randint(2, 4)) for _ in range(n)]
            tuned = [min(5.0, max(1.0, b + round(chance.gauss(gain, 0.8)))) for b in base]
            tuned[3 % n] = math.nan
            why = [
                f"{poison}The dose is named; {criterion} suffers from a {chance.choice(WORDS)} left out." for _ in base
            ]
            whys = [*why]
            whys[3 % n] = "unscored: the reply is not the JSON that was asked for"
            metrics.append(
                paired_metric(
                    criterion, base, tuned, base_reasons=why, tuned_reasons=whys, limits=(1.0, 5.0), family="rubric"
                )
            )
        panel = {
            "judge": "judge-mini", "prompt": "3 (0f3a9bc21d77)", "calls": 2 * n, "calls from cache": 4,
            "prompt tokens": 51_200,
            "completion tokens": 8_100, "cost": 0.0312, "cost without cache": 0.0335, "unscored": 1 / (2 * n),
            "examples scored": n - 1, "length correlation": 0.58, "length correlation, low": 0.31,
            "length correlation, high": 0.77,
            "length flag": "may prefer longer answers", "gold agreement": 0.81, "gold agreement, low": 0.7,
            "gold agreement, high": 0.89, "gold weighted kappa": 0.66, "gold unscored": 0.0,
        }  # fmt: skip
        notes = (
            f"judge: judge-mini at 127.0.0.1, {2 * n} calls",
            f"unscored: 1 of {2 * n} answers; 1: {poison}no JSON",
        )
        found.append(Evaluation(tuple(metrics), notes, "judge", "heldout", n, panel))
        wins = [float(chance.random() < 0.8) for _ in range(n)]
        reasons = [f"base first: tuned. {poison}More to the point.\ntuned first: tuned. Complete."] * n
        metric = paired_metric("win_rate", [1 - w for w in wins], wins, base_reasons=reasons, tuned_reasons=reasons)
        panel = {
            "judge": "judge-mini", "prompt": "3 (77aa01)", "calls": 2 * n, "cost": 0.04, "unscored": 0.0,
            "win rate": 0.8,
            "win rate, low": 0.6, "win rate, high": 0.92, "order consistency": 0.83, "order consistency, low": 0.64,
            "order consistency, high": 0.93,
        }  # fmt: skip
        found.append(Evaluation((metric,), (), "pairwise", "heldout", n, panel))
        base = scores(3, 3.2)
        general = paired_metric(
            "general_nll", base, [b + chance.gauss(0.004, 0.03) for b in base], higher_is_better=False
        )
        found.append(Evaluation((general,), ("32 texts",), "forgetting", "general-text", n))
    if subsets:
        leaked = [index % 5 == 0 for index in range(n)]
        metric = on_subsets(found[1].metrics[0], leaked)
        parts = {part: (metric[part],) for part in ("clean", "leaked") if part in metric}
        found[1] = dataclasses.replace(found[1], subsets=parts)
    metrics = iter(adjusted([m for e in found for m in e.metrics]))
    return [dataclasses.replace(e, metrics=tuple(next(metrics) for _ in e.metrics)) for e in found]


def _write_rest(directory, chance, examples, poison):
    source = {"path": "train.jsonl", "hub": None, "format": {"use": "instruct"}}
    recipe = {
        "name": directory.name,
        "seed": 42,
        "model": {"use": "huggingface", "id": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        "adapter": {"use": "lora", "r": 16},
        "data": {
            "train": [source, {**source, "path": None, "hub": "org/general"}],
            "evals": {"heldout": {**source, "path": "heldout.jsonl"}},
        },
        "train": {"use": "sft", "epochs": 3, "best_by": "exact_match"},
        "evaluate": [{"use": "loss"}, {"use": "exact_match"}],
        "report": [{"use": "html"}, {"use": "model_card"}],
    }  # fmt: skip
    directory.write_text("resolved.yaml", yaml.safe_dump(recipe, sort_keys=False))
    lock = {
        "recipe": recipe,
        "model": {
            "name": "HuggingFaceTB/SmolLM2-135M-Instruct", "fingerprint": "b179c9", "dtype": "bfloat16",
            "quantization": None,
        },
        "packages": {"torch": "2.13.0"},
        "hardware": {"machine": "x86_64"},
    }  # fmt: skip
    directory.write_json("run.lock.json", lock)
    directory.write_json(
        "stages.json", {stage: {} for stage in ("data", "base", "train", "tuned", "evaluate", "report")}
    )
    training = {
        "steps": 120, "best_step": 90, "trained_tokens": 81_694, "seconds": 918.4, "trainable_parameters": 4_884_480,
        "total_parameters": 139_399_488,
    }  # fmt: skip
    directory.write_json("training.json", training)
    ledger = Ledger()
    for source, split, rows in (("train.jsonl", "train", 200), ("heldout.jsonl", "eval:heldout", len(examples))):
        for line in range(1, rows + 1):
            ledger.add(source, line, split, "domain")
    for line in range(1, 9):
        ledger.drop(f"train.jsonl:{line}", "dedupe", f"{poison}near duplicate")
    ledger.step("dedupe")
    for line in range(9, 201):
        ledger.count_tokens(f"train.jsonl:{line}", 220, 160)
    ledger.write(directory.path / "ledger.parquet")
    _write_events(directory, chance, poison)


def _write_events(directory, chance, poison):
    """A training that was interrupted once and rolled back once."""
    sources = [f"{poison}medquad $x$", f"{poison}general"]

    def step(at, tokens):
        loss = 1.1 + 1.3 * math.exp(-at / 30) + chance.gauss(0, 0.12)
        rate = 2e-4 * min(1, at / 10) * (1 - at / 130)
        used = {"tokens": tokens, "seconds": at * 7.6, "tokens_per_second": 89.0, "memory_mb": 2100 + at}
        norm = chance.uniform(0.3, 0.9)
        directory.emit("metric", step=at, epoch=at / 40, loss=loss, grad_norm=norm, learning_rate=rate, **used)
        if at % 15 == 0:
            value = 1.25 + 1.0 * math.exp(-at / 28) + max(0, at - 90) * 0.004
            by_source = dict(zip(sources, (value + 0.1, value - 0.2), strict=True))
            best = {"best_by": "exact_match", "score": 0.2 + 0.3 * min(at, 90) / 90}
            directory.emit("validation", step=at, epoch=at / 40, loss=value, **best, by_source=by_source)

    directory.emit("start", name=directory.name)
    directory.emit("rehearsal", rows=4, tokens=900, seconds=4.2, memory_mb=2300.0)
    directory.emit("plan", steps=120, rows=192, best_by="exact_match")
    directory.emit("validation", step=0, epoch=0.0, loss=2.3, best_by="exact_match", score=0.2)
    for at in range(1, 50):
        step(at, at * 680)
    directory.emit("plan", steps=120, rows=192, best_by="exact_match")
    directory.emit("resume", step=40)
    for at in range(41, 71):
        step(at, at * 680)
    directory.emit("metric", step=71, loss=math.nan, grad_norm=math.inf, learning_rate=1e-4)
    directory.emit("watcher", by="divergence", asks="roll back", reason=f"{poison}the loss is nan", step=71)
    directory.emit("rollback", step=60, factor=0.5, reason=f"{poison}the loss is nan")
    for at in range(61, 121):
        step(at, at * 680)
    directory.emit("watcher", by="val_valley", asks="nothing", reason="validation loss rises", step=120)
    directory.emit("best", step=90, loss=1.29, best_by="exact_match")
    directory.emit("note", text=f"{poison}The fast path is off, because speed: off.")
    directory.emit("end")


def old_run(root):
    """A run as a release without tests, panels and subsets wrote it."""
    directory = write_run(root, judged=False, subsets=False)
    kept = ("name", "base", "tuned", "difference", "higher_is_better", "base_scores", "tuned_scores")
    records = json.loads((directory.path / "evaluation.json").read_text())
    old = [
        {
            **{k: record[k] for k in ("notes", "evaluator", "evals", "n")},
            "metrics": [{k: m[k] for k in (*kept, "base_reasons", "tuned_reasons")} for m in record["metrics"]],
        }
        for record in records
    ]
    directory.write_json("evaluation.json", old)
    events = [json.loads(line) for line in (directory.path / "events.jsonl").read_text().splitlines()]
    keep = ("event", "time", "step", "epoch", "loss", "steps", "rows")
    lines = [
        {k: v for k, v in e.items() if k in keep}
        for e in events
        if e["event"] in ("plan", "metric", "validation", "best")
    ]
    (directory.path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return finished(directory)
