"""The order of the work, from recipe to report. The only module that knows it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ftp import allocator, answers, data
from ftp.components import Reporter
from ftp.errors import RunError
from ftp.ledger import Ledger
from ftp.plugins import Plugins
from ftp.recipe import Recipe, plugins_of
from ftp.rendering import encode, stop_ids
from ftp.rows import files_of
from ftp.rundir import RunDirectory, digest, file_digest, runs_below
from ftp.stats import Interval
from ftp.types import (
    Answer,
    Corpus,
    Evaluation,
    EvalView,
    FinishedRun,
    LoadedModel,
    Metric,
    TrainingJob,
)

PACKAGES = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "bitsandbytes", "gguf", "openai")


class Progress:
    """What a run tells while it goes on. The command line shows it; this one is silent."""

    def stage(self, title: str, total: int | None = None) -> Callable[[int], None]:
        """A stage begins; the returned function is called with the number of units done since its last call."""
        return lambda units: None

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """An event was written to events.jsonl."""

    def note(self, text: str) -> None:
        """Something the user should read."""


def run(
    recipe: Recipe, plugins: Plugins, file: Path, root: Path, progress: Progress, *, new: bool = False
) -> FinishedRun:
    """Do what the recipe says, or what is left of it, and return the finished run.

    Args:
        recipe: validated.
        file: the recipe's file; copied into the run directory.
        root: where runs are kept.
        new: begin a new run even when an equal one is there.

    Raises:
        FtpError: with what the user can do about it.
    """
    allocator.keep_large_blocks()
    lock = fingerprints(recipe, plugins)
    directory = None if new else _equal_run(root, recipe.name, lock)
    if directory is None:
        directory = RunDirectory.create(root, recipe.name)
    with directory.lock():
        if directory.read_json("run.lock.json") is None:
            directory.write_text("recipe.yaml", file.read_text(encoding="utf-8"))
            directory.write_text(
                "resolved.yaml", yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
            )
            directory.write_json("run.lock.json", lock)
        _run(recipe, plugins, file, directory, lock, progress)
    return finished(directory)


def _run(
    recipe: Recipe,
    plugins: Plugins,
    file: Path,
    directory: RunDirectory,
    lock: dict[str, Any],
    progress: Progress,
) -> None:
    def emit(event: str, **values: Any) -> None:
        directory.emit(event, **values)
        progress.event(event, values)

    inputs = {key: digest(value) for key, value in lock.items() if key != "hardware"}
    if directory.is_done("report", inputs):
        progress.note(f"This recipe was run already, on the same inputs: {directory.path}. --new runs it again.")
        return
    emit("start", recipe=str(file), inputs=inputs)

    corpus, ledger = _data(recipe, file, directory, inputs, progress)
    if not (directory.is_done("tuned", inputs)):
        request = recipe.adapter.prepare(recipe.model.describe())
        progress.stage("Loading the model")
        loaded = recipe.model.load(request)
        for note in loaded.notes:
            emit("note", text=note)
        _note_model(directory, loaded)
        # The base model speaks before anything is trained: the only base that full training leaves, and a rehearsal
        # of the evaluation before the hours that training takes.
        _evidence("base", recipe, loaded, corpus, directory, inputs, progress)
        loaded = _train(recipe, loaded, corpus, ledger, directory, inputs, emit, progress)
        _evidence("tuned", recipe, loaded, corpus, directory, inputs, progress)
    _evaluate(recipe, corpus, directory, inputs, emit)
    _report(recipe, plugins, directory, inputs, progress)


def _data(
    recipe: Recipe, file: Path, directory: RunDirectory, inputs: Mapping[str, str], progress: Progress
) -> tuple[Corpus, Ledger]:
    place = directory.path / "data"
    parts = {name: place / f"{name}.arrow" for name in ("train", "validation")}
    evals = {name: place / f"eval-{name}.arrow" for name in recipe.data.evals}
    if not directory.is_done("data", inputs):
        corpus, ledger = data.build_corpus(
            recipe.data, place, file.absolute().parent, recipe.seed, progress.stage("Reading rows")
        )
        data.write_examples(parts["train"], corpus.train)
        data.write_examples(parts["validation"], corpus.validation)
        for name, examples in corpus.evals.items():
            data.write_examples(evals[name], examples)
        ledger.write(place / "ledger.parquet")
        directory.finish("data", inputs)
    corpus = Corpus(
        data.read_examples(parts["train"]),
        data.read_examples(parts["validation"]),
        {name: data.read_examples(path) for name, path in evals.items()},
    )
    # As it was before training: the trainer adds its own entries, once more when it has to begin again.
    return corpus, Ledger.read(place / "ledger.parquet")


def _evidence(
    who: str,
    recipe: Recipe,
    loaded: LoadedModel,
    corpus: Corpus,
    directory: RunDirectory,
    inputs: Mapping[str, str],
    progress: Progress,
) -> None:
    """What a model says to every eval set and how well it predicts the references, once, on disk."""
    if directory.is_done(who, inputs):
        return
    reads_answers = any(evaluator.reads_answers for evaluator in recipe.evaluate)
    for name, examples in corpus.evals.items():
        rows = encode(loaded.tokenizer, examples, stop_ids(loaded.tokenizer, loaded.model))
        losses = answers.token_losses(loaded, rows, progress.stage(f"Loss of the {who} model on {name}", len(rows)))
        said: list[Answer] = []
        if reads_answers:
            advance = progress.stage(f"Answers of the {who} model to {name}", len(rows))
            said = answers.generate(loaded, examples, recipe.answers, advance)
        answers.save(_answers_file(directory, who, name), examples, said, losses)
    allocator.give_back()
    directory.finish(who, inputs)


def _answers_file(directory: RunDirectory, who: str, name: str) -> Path:
    return directory.path / "answers" / f"{who}-{name}.parquet"


def _train(
    recipe: Recipe,
    loaded: LoadedModel,
    corpus: Corpus,
    ledger: Ledger,
    directory: RunDirectory,
    inputs: Mapping[str, str],
    emit: Callable[..., None],
    progress: Progress,
) -> LoadedModel:
    if directory.is_done("train", inputs):
        restored = recipe.adapter.restore(loaded, directory.path / "model")
        if restored is not None:
            return restored
        progress.note(f"The adapter '{recipe.adapter.used_as}' can't be restored from disk, so training is done again.")
    progress.stage("Training")
    _seed(recipe.seed)
    loaded = recipe.adapter.apply(loaded)
    job = TrainingJob(loaded, corpus, ledger, directory.path / "checkpoints", recipe.seed, emit)
    result = recipe.train.train(job)
    with directory.new_directory("model") as target:
        result.model.model.save_pretrained(target, safe_serialization=True)
        result.model.tokenizer.save_pretrained(target)
    ledger.write(directory.path / "ledger.parquet")
    summary = {f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.name != "model"}
    directory.write_json("training.json", summary)
    allocator.give_back()
    directory.finish("train", inputs)
    return result.model


def _evaluate(
    recipe: Recipe, corpus: Corpus, directory: RunDirectory, inputs: Mapping[str, str], emit: Callable[..., None]
) -> None:
    if directory.is_done("evaluate", inputs):
        return
    found: list[Evaluation] = []
    for evaluator in recipe.evaluate:
        for name in corpus.evals:
            evaluation = evaluator.evaluate(_view(directory, corpus, name))
            evaluation = dataclasses.replace(evaluation, evaluator=evaluator.used_as, evals=name)
            found.append(evaluation)
            for metric in evaluation.metrics:
                emit(
                    "score",
                    evaluator=evaluator.used_as,
                    evals=name,
                    metric=metric.name,
                    base=metric.base,
                    tuned=metric.tuned,
                )
    directory.write_json("evaluation.json", [dataclasses.asdict(evaluation) for evaluation in found])
    directory.finish("evaluate", inputs)


def _view(directory: RunDirectory, corpus: Corpus, name: str) -> EvalView:
    base_answers, base_losses = answers.load(_answers_file(directory, "base", name))
    tuned_answers, tuned_losses = answers.load(_answers_file(directory, "tuned", name))
    return EvalView(name, list(corpus.evals[name]), base_answers, tuned_answers, base_losses, tuned_losses)


def _report(
    recipe: Recipe, plugins: Plugins, directory: RunDirectory, inputs: Mapping[str, str], progress: Progress
) -> None:
    progress.stage("Writing reports")
    write_reports(directory, plugins, recipe.report)
    directory.finish("report", inputs)


def write_reports(directory: RunDirectory, plugins: Plugins, reporters: Sequence[Reporter] = ()) -> list[Path]:
    """Have a finished run reported by these reporters, or by every installed one that needs no options."""
    run = finished(directory)
    return [reporter.report(run) for reporter in reporters or default_reporters(plugins)]


def default_reporters(plugins: Plugins) -> list[Reporter]:
    """Every installed reporter that needs no options."""
    found = []
    for offer in plugins.offers("reporters").values():
        if not any(field.is_required() for field in offer.component.model_fields.values()):
            reporter = offer.component()
            assert isinstance(reporter, Reporter)
            found.append(reporter)
    return found


def finished(directory: RunDirectory) -> FinishedRun:
    """Read a run back from its directory.

    Raises:
        RunError: it is not a run, or it has not come to its evaluation.
    """
    evaluations = directory.read_json("evaluation.json")
    if evaluations is None:
        what = "the run is not finished" if (directory.path / "run.lock.json").is_file() else "not a run directory"
        raise RunError(f"{directory.path}: {what}")
    recipe = yaml.safe_load((directory.path / "resolved.yaml").read_text(encoding="utf-8"))
    sets = {
        name: data.read_examples(directory.path / "data" / f"eval-{name}.arrow") for name in recipe["data"]["evals"]
    }
    nothing = data.read_examples(directory.path / "data" / "validation.arrow")
    corpus = Corpus(nothing, nothing, sets)
    return FinishedRun(
        directory=directory.path,
        name=directory.name,
        id=directory.id,
        recipe=recipe,
        lock=directory.read_json("run.lock.json"),
        training=directory.read_json("training.json"),
        evaluations=[_evaluation(record) for record in evaluations],
        views=[_view(directory, corpus, name) for name in sets],
        events=directory.events(),
        ledger_totals=Ledger.read(directory.path / "ledger.parquet").totals(),
    )


def _evaluation(record: dict[str, Any]) -> Evaluation:
    metrics = []
    for metric in record["metrics"]:
        difference = metric["difference"] and Interval(**{k: _number(v) for k, v in metric["difference"].items()})
        lists = {
            k: tuple(map(_number, v)) if k.endswith("scores") else tuple(v)
            for k, v in metric.items()
            if isinstance(v, list)
        }
        plain = {k: _number(v) for k, v in metric.items() if not isinstance(v, list)}
        metrics.append(Metric(**{**plain, **lists, "difference": difference}))
    return Evaluation(tuple(metrics), tuple(record["notes"]), record["evaluator"], record["evals"], record["n"])


def _number(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


# --- what a run was made from -----------------------------------------------------------------------------------------


def fingerprints(recipe: Recipe, plugins: Plugins) -> dict[str, Any]:
    """What the result depends on: the resolved recipe, the bytes of the data, packages, plugins, hardware."""
    sources = [*recipe.data.train, *recipe.data.evals.values()]
    if isinstance(recipe.data.validation, data.Source):
        sources.append(recipe.data.validation)
    files = {file for source in sources if source.path for file in files_of(source.path)}
    installed = {}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "recipe": recipe.resolved(),
        "data": {str(file): file_digest(file) for file in sorted(files)},
        "packages": installed,
        "plugins": {plugin.name: plugin.version for plugin in plugins_of(recipe, plugins)},
        "hardware": {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()},
    }


def _equal_run(root: Path, name: str, lock: Mapping[str, Any]) -> RunDirectory | None:
    """The newest run that was made from the same things."""
    for directory in reversed(runs_below(root, name)):
        recorded = directory.read_json("run.lock.json")
        if all(digest(recorded.get(key)) == digest(lock[key]) for key in lock if key != "hardware"):
            return directory
    return None


def _note_model(directory: RunDirectory, loaded: LoadedModel) -> None:
    """Add to the lock what only the loaded model can tell; refuse when a run goes on with another one."""
    lock = directory.read_json("run.lock.json")
    tokenizer = digest(loaded.tokenizer.backend_tokenizer.to_str())
    now = {
        "name": loaded.name,
        "fingerprint": loaded.fingerprint,
        "dtype": loaded.request.dtype,
        "quantization": loaded.request.quantization and dataclasses.asdict(loaded.request.quantization),
        "device": str(loaded.model.device),
        "tokenizer": tokenizer,
        "chat_template": digest(loaded.tokenizer.chat_template),
    }
    before = lock.get("model")
    if before is not None and before != now:
        changed = ", ".join(key for key in now if before.get(key) != now[key])
        raise RunError(
            f"{directory.path}: this run began with another model; changed: {changed}. Start anew with --new."
        )
    directory.write_json("run.lock.json", {**lock, "model": now})


def _seed(seed: int) -> None:
    import transformers

    transformers.set_seed(seed)
