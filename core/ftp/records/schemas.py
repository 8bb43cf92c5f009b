"""The schemas of the files of a run. What is read back is checked: a run may be damaged, or a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ftp.types import Evaluation, Metric

MOST_BYTES = 64 * 2**20
"""The largest of the small JSON and YAML files that is read."""
MOST_BYTES_OF_SCORES = 2**30
"""The largest evaluation.json: it has every example's scores and a judge's reasons."""
MOST_BYTES_OF_EVENTS = 4 * 2**30
"""The largest events.jsonl, about 20 million events."""

_MORE = ConfigDict(extra="allow")
Number = int | float
Digests = dict[str, str]


class StageRecord(TypedDict, total=False):
    """One stage in stages.json."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    inputs: Digests
    files: list[str]


class LockedModel(TypedDict):
    """The base model in run.lock.json, noted when it was loaded."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    name: str
    fingerprint: str
    dtype: str
    quantization: dict[str, Any] | None


def _below(path: str) -> str:
    """Return a path that stays below the directory that it is relative to."""
    if path.startswith("/") or ".." in path.split("/") or not path.isprintable():
        raise ValueError("leads out of the export")
    return path


class ParityRecord(TypedDict):
    """How near an export came, in its export.json."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    prompts: int
    positions: int
    same_ids: int
    top1: float
    kl: float
    same_answers: float


class ExportRecord(TypedDict):
    """The export.json of an export."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    format: str
    run: str
    options: dict[str, Any]
    engine: str
    proven: bool
    misses: list[str]
    parity: ParityRecord
    evaluated: bool
    written: str
    main: NotRequired[Annotated[str, AfterValidator(_below)]]
    files: NotRequired[dict[str, str]]


class Lock(TypedDict, total=False):
    """run.lock.json, of this release or an older one."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    recipe: dict[str, Any]
    data: Digests
    packages: Digests
    plugins: Digests
    hardware: dict[str, Any]
    base_model: str
    lineage: dict[str, Any]
    model: LockedModel
    anyway: list[dict[str, Any]]


class Origin(TypedDict):
    """origin.json."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    recipe: str
    plugins: list[str]
    without: list[str]


class Training(TypedDict):
    """training.json."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    steps: Number
    best_step: Number
    trained_tokens: Number
    seconds: Number
    trainable_parameters: Number
    total_parameters: Number


class Block(TypedDict):
    """A `use:` block of resolved.yaml."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    use: str
    id: NotRequired[str]


class SourceBlock(TypedDict, total=False):
    """A source in resolved.yaml."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    path: str | None
    hub: str | None
    split: str | None
    revision: str | None
    role: str


class DataBlock(TypedDict):
    """`data:` in resolved.yaml."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    train: list[SourceBlock]
    evals: dict[str, SourceBlock | int | float]


class Resolved(TypedDict):
    """resolved.yaml, as far as reports and comparisons read it; whoever runs it validates the whole."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    name: str
    seed: int
    model: Block
    adapter: Block
    train: Block
    data: DataBlock
    evaluate: list[Block]


# --- events


Loss = int | float | Literal["nan", "inf", "-inf"]
Step = Annotated[int, Field(ge=0, lt=2**53)]


def _is_time(value: str) -> str:
    if datetime.fromisoformat(value).tzinfo is None:
        raise ValueError("has no time zone")
    return value


class Named(TypedDict):
    """What every line of events.jsonl has."""

    __pydantic_config__ = _MORE  # type: ignore[misc]
    event: str
    time: NotRequired[Annotated[str, AfterValidator(_is_time)]]


class Event(Named):
    """A line of events.jsonl."""

    step: NotRequired[Step | None]


class StepEvent(Named):
    """`best`, `resume`, `rollback`: what happened at a step."""

    step: Step


class MetricEvent(StepEvent):
    """`metric`."""

    loss: NotRequired[Loss]
    tokens: NotRequired[Number | None]
    memory_mb: NotRequired[Number | None]


class ValidationEvent(StepEvent):
    """`validation`."""

    loss: NotRequired[Loss]
    by_source: NotRequired[dict[str, Any] | None]
    best_by: NotRequired[str | None]


class PlanEvent(Event):
    """`plan`."""

    steps: NotRequired[Number | None]
    seconds: NotRequired[Number | None]
    tokens: NotRequired[Number | None]
    trained_tokens: NotRequired[Number | None]
    tokens_per_second: NotRequired[Number | None]
    memory_mb: NotRequired[Number | None]


class WatcherEvent(Event):
    """`watcher`: what a watcher has answered."""

    by: str
    asks: str
    reason: str


class NoteEvent(Event):
    """`note`."""

    text: str


EVENTS: Mapping[str, Any] = {
    "metric": MetricEvent,
    "validation": ValidationEvent,
    "best": StepEvent,
    "resume": StepEvent,
    "rollback": StepEvent,
    "plan": PlanEvent,
    "rehearsal": PlanEvent,
    "watcher": WatcherEvent,
    "note": NoteEvent,
}
"""Events that are read by name; of any other only its name, time and step are checked."""


# --- evaluations


def _paired(metric: Metric) -> Metric:
    rows = len(metric.base_scores)
    lists = {"tuned_scores": metric.tuned_scores}
    lists |= {name: found for name in ("weights", "clusters") if (found := getattr(metric, name))}
    for name, found in lists.items():
        if len(found) != rows:
            raise ValueError(f"{name} has {len(found)} entries and base_scores {rows}")
    return metric


def _numbers(value: Any) -> Any:
    """JSON has no word for them, so `finite` wrote strings."""
    return float(value) if value in ("nan", "inf", "-inf") else value


PairedMetric = Annotated[Metric, AfterValidator(_paired)]


class EvaluationRecord(TypedDict):
    """One evaluation in evaluation.json.

    A run of an older release lacks the fields that came later; those of a later release are left out.
    """

    # The dataclasses inside have this configuration too, and no attributes for fields that they don't know.
    __pydantic_config__ = ConfigDict(extra="ignore")  # type: ignore[misc]
    metrics: tuple[PairedMetric, ...]
    notes: tuple[str, ...]
    evaluator: str
    evals: str
    n: Annotated[int, Field(ge=0)]
    panel: NotRequired[dict[str, Annotated[float | str, BeforeValidator(_numbers)]]]
    against: NotRequired[str]
    subsets: NotRequired[dict[Literal["clean", "leaked"] | str, tuple[PairedMetric, ...]]]


def evaluation(record: EvaluationRecord) -> Evaluation:
    """Return the evaluation that a checked record stands for."""
    return Evaluation(
        metrics=record["metrics"],
        notes=record["notes"],
        evaluator=record["evaluator"],
        evals=record["evals"],
        n=record["n"],
        panel=record.get("panel", {}),
        subsets=record.get("subsets", {}),
        against=record.get("against", ""),
    )


# --- checking


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def checked(schema: Any, value: Any) -> Any:
    """Return the value as `schema` has it.

    Raises:
        ValueError: it is another; the message says where and what.
    """
    try:
        return _adapter(schema).validate_python(value)
    except ValidationError as error:
        first, *more = error.errors(include_url=False, include_input=False)
        place = ".".join(str(part)[:80] for part in first["loc"])
        rest = f" and {len(more)} more" if more else ""
        raise ValueError(f"{place}: {first['msg']}{rest}" if place else f"{first['msg']}{rest}") from None
