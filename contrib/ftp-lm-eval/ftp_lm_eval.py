"""Tasks of EleutherAI's lm-evaluation-harness as an evaluator: base against tuned, document by document."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

import ftp

RATES = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics whose value for a document is its log-likelihood and the number of its words or bytes."""


class LmEval(ftp.Evaluator, ftp.MeasuresModel):
    """Tasks of EleutherAI's lm-evaluation-harness (Gao et al., doi:10.5281/zenodo.10256836) on the model in memory.

    Both models get the same documents, so the differences are paired. Perplexities come as nats per word or byte.
    """

    requires: ClassVar[tuple[str, ...]] = ("lm_eval", "torch", "transformers", "scipy")
    reads_answers: ClassVar[bool] = False

    tasks: list[str] = Field(min_length=1)
    """Names of tasks or groups of tasks."""
    include: ftp.FilePath | None = None
    """A directory with YAML files of tasks, used instead of the tasks that come with the harness. Paths in them are
    resolved from this directory."""
    shots: int | None = Field(default=None, ge=0)
    """Solved examples before each question. Default: the task's own number."""
    limit: int | None = Field(default=None, ge=1)
    """Maximum number of documents of each task, from the first one on. Default: all."""
    batch_size: int = Field(default=8, ge=1)
    """Requests sent to the model together."""
    chat: bool = False
    """Apply the model's chat template."""

    def problems(self) -> list[str]:
        if self.include is not None and not any(Path(self.include).rglob("*.yaml")):
            return [f"include: {self.include}: no directory with .yaml files"]
        return []

    def files(self) -> Sequence[Path]:
        if self.include is None:
            return []
        return sorted(file for file in Path(self.include).rglob("*") if file.is_file())

    def measure(self, model: ftp.LoadedModel) -> Mapping[str, Any]:
        """Return for each task the hash of every document, and for each metric its value on every document."""
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        with _quiet(), contextlib.chdir(self.include or "."):
            lm = HFLM(
                model.model,
                backend="causal",
                tokenizer=model.tokenizer,
                batch_size=self.batch_size,
                softmax_dtype="float32",
            )
            manager = TaskManager(include_path=self.include, include_defaults=self.include is None)
            unknown = [task for task in self.tasks if not manager.match_tasks([task])]
            if unknown:
                known = ", ".join(sorted(manager.all_tasks)[:20])
                raise ftp.DataError([f"{self.used_as}: no task '{name}'; there are {known} …" for name in unknown])
            found = lm_eval.simple_evaluate(
                model=lm,
                tasks=list(self.tasks),
                task_manager=manager,
                num_fewshot=self.shots,
                limit=self.limit,
                apply_chat_template=self.chat,
                bootstrap_iters=0,
            )
        return {task: _task(samples, found, task) for task, samples in found["samples"].items()}

    def evaluate(self, view: ftp.EvalView) -> ftp.Evaluation:
        base, tuned = view.base_measured, view.tuned_measured
        if not base or not tuned:
            raise ftp.ModelError(f"'{self.used_as}' measures whole models and scores no eval set")
        metrics: list[ftp.Metric] = []
        for task in base:
            if base[task]["documents"] != tuned[task]["documents"]:
                raise ftp.DataError([f"{self.used_as}: {task}: its documents changed between the two models"])
            for name, figure in base[task]["figures"].items():
                metrics.append(_metric(f"{task} {name}", figure, tuned[task]["figures"][name]))
        counts = {task: len(found["documents"]) for task, found in base.items()}
        notes = tuple(f"{task}: version {base[task]['version']}, {count} documents" for task, count in counts.items())
        return ftp.Evaluation(tuple(metrics), notes, n=sum(counts.values()))


def _task(samples: Sequence[Mapping[str, Any]], found: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return the harness's results for a task, as plain values."""
    figures: dict[str, Any] = {}
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    for name in filters:
        rows = sorted((s for s in samples if s["filter"] == name), key=lambda sample: sample["doc_id"])
        for metric in rows[0]["metrics"]:
            shown = metric if len(filters) == 1 else f"{metric} ({name})"
            values = [row[metric] for row in rows]
            figures[shown] = {"higher_is_better": found["higher_is_better"][task].get(metric, True)}
            if metric in RATES:
                figures[shown] |= {"scores": [-float(v) / n for v, n in values], "weights": [int(n) for _, n in values]}
            elif all(isinstance(value, int | float) for value in values):
                figures[shown] |= {"scores": [float(value) for value in values]}
            else:
                figures[shown] |= {"figure": float(found["results"][task][f"{metric},{name}"])}
    documents = {sample["doc_id"]: sample["doc_hash"] for sample in samples}
    return {
        "version": str(found["versions"].get(task, "?")),
        "documents": [documents[id] for id in sorted(documents)],
        "figures": figures,
    }


def _metric(name: str, base: Mapping[str, Any], tuned: Mapping[str, Any]) -> ftp.Metric:
    higher = base["higher_is_better"]
    if "figure" in base:
        return ftp.Metric(name, float(base["figure"]), float(tuned["figure"]), None, higher_is_better=higher)
    weights = base.get("weights")
    scores = [[float(score) for score in side["scores"]] for side in (base, tuned)]
    unit = "" if weights is None else ", nats"
    return ftp.paired_metric(f"{name}{unit}", *scores, higher_is_better=higher, weights=weights)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the harness's notices and progress bars."""
    import datasets

    logger = logging.getLogger("lm_eval")
    before, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(before)
        if not bars:
            datasets.enable_progress_bars()


@ftp.hookimpl
def ftp_evaluators() -> dict[str, type[ftp.Evaluator]]:
    return {"lm_eval": LmEval}
