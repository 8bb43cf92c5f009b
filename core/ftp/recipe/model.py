"""The recipe as Python objects: its blocks, each with its options and their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Discriminator, Field, PrivateAttr, Tag

from ftp.components import (
    Adapter,
    Component,
    Curator,
    Engine,
    Evaluator,
    Exporter,
    Formatter,
    Loader,
    Reporter,
    Trainer,
    Watcher,
)
from ftp.data.readers.encodings import known_encoding
from ftp.data.readers.rows import ReadOptions, SampleBy
from ftp.data.slices import Slice, known_slice, parse_slice
from ftp.options import PLAIN_NAME, FilePath, Options, Share
from ftp.slots import dump
from ftp.types import ControlTokenRule
from ftp.yaml_source import Path_

CONTESTANT = r"^[A-Za-z0-9][A-Za-z0-9_]{0,99}$"
"""Pattern for the names of contestants, which become a part of file names."""


class Source(Options):
    """A source of rows: files, or a data set on the hub."""

    also_known_as: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("num_samples", "max_samples", "slice"), "split"),
        "loss_weight": "weight",
    }

    path: FilePath | None = None
    """A file, a directory or a glob of .jsonl, .json, .csv, .tsv, .xlsx, .parquet, .arrow, .feather, .txt or .md files
    (each also .gz or .zst), or a directory that `save_to_disk` wrote."""
    hub: str | None = None
    """The id of a data set on the Hugging Face hub."""
    split: Annotated[str, AfterValidator(known_slice)] | None = None
    """Which split of the hub data set, or a slice of one: `train[:1%]`, `train[100:200]`. Default: `train`. For files
    a slice of their rows in order: `[:1%]`."""
    revision: str | None = None
    """Which commit, tag or branch of the hub data set."""
    name: Annotated[str, Field(pattern=PLAIN_NAME)] | None = None
    """The name of this source in curators' options. Default: its path or hub id as given in the recipe."""
    format: Formatter
    """How a row becomes an example."""
    role: Literal["domain", "replay"] = "domain"
    """`replay` is general data mixed in against forgetting."""
    weight: float = Field(default=1.0, gt=0)
    """What the loss of each trained token of its rows is multiplied by in training; not how often they come."""
    group: str | None = None
    """Column whose equal values belong together, such as a patient or a document: never on both sides of a split."""
    control_tokens: ControlTokenRule = "text"
    """What to do with control tokens such as `<|im_end|>` or `<s>` that a row's text spells out. text: they stay text,
    and the ledger names the row. refuse: stop, and name the row. allow: they count as those tokens."""
    on_bad_row: Literal["stop", "drop"] = "stop"
    """What to do with a row that can't be used: stop and report it, or drop it and record it in the ledger."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """What separates the cells of a CSV file. Default: detected, of comma, semicolon, tab and pipe."""
    encoding: Annotated[str, AfterValidator(known_encoding)] | None = None
    """Encoding of a CSV, .txt or .md file, such as `cp1252`. Default: detected, and reported where it is not UTF-8."""
    sheet: str | None = None
    """Which sheet of an .xlsx file. Default: the first."""
    sample_by: SampleBy | None = None
    """What becomes a row of a .txt or .md file: `document` (the whole file), `paragraph` or `line`.
    Default: `document`."""

    @property
    def slice(self) -> Slice:
        """Which of its rows are meant, and of which split."""
        return parse_slice(self.split or "train")

    @property
    def reading(self) -> ReadOptions:
        """How the files of this source are read."""
        return ReadOptions(self.delimiter, self.encoding, self.sheet, self.sample_by)


def _kind_of_eval_set(value: object) -> str:
    if isinstance(value, dict | Source):
        return "source"
    return "rows" if isinstance(value, int) and not isinstance(value, bool) else "share"


class Data(Options):
    """The rows: training, validation and eval sets."""

    train: list[Source] = Field(min_length=1)
    """Sources of training rows."""
    validation: (
        Annotated[
            Annotated[Share, Tag("share")] | Annotated[Source, Tag("source")],
            Discriminator(lambda value: "source" if isinstance(value, dict | Source) else "share"),
        ]
        | None
    ) = None
    """Rows for the validation loss: a share split off from the domain rows before the curators run, or a source of its
    own. Default: 10%, unless a curator such as `split` makes the validation split."""
    evals: dict[
        Annotated[str, Field(pattern=PLAIN_NAME)],
        Annotated[
            Annotated[Annotated[Share, Field(gt=0)], Tag("share")]
            | Annotated[int, Field(ge=1), Tag("rows")]
            | Annotated[Source, Tag("source")],
            Discriminator(_kind_of_eval_set),
        ],
    ] = Field(default_factory=dict)
    """Named eval sets, never trained on: a source of its own, or a share (`10%`) or number (`50`) of the domain rows,
    held out before anything else. Rows of one group and near duplicates stay together. A share holds out the same rows
    again when others are added."""
    curate: list[Curator] = Field(default_factory=list)
    """Curators, in this order. With eval sets, an installed curator that guards them is put first if it is not among
    these."""

    def sources(self) -> Iterator[tuple[Path_, Source]]:
        """Yield every source with its path in the recipe: training, validation and eval sets."""
        for index, source in enumerate(self.train):
            yield ("data", "train", index), source
        if isinstance(self.validation, Source):
            yield ("data", "validation"), self.validation
        for name, source in self.eval_sources.items():
            yield ("data", "evals", name), source

    @property
    def eval_sources(self) -> dict[str, Source]:
        """The eval sets that have a source of their own."""
        return {name: source for name, source in self.evals.items() if isinstance(source, Source)}

    @property
    def held_out(self) -> dict[str, float | int]:
        """The eval sets that are drawn from the training rows: a share (float) or a number of rows (int) each."""
        return {name: size for name, size in self.evals.items() if not isinstance(size, Source)}


class Recipe(Options):
    """A fine-tuning run, from model and data to evidence."""

    name: str = Field(pattern=PLAIN_NAME)
    """Names the run's directory: letters, digits, dots, underscores and dashes."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """For the split, the adapter's initial weights, dropout and the order of training."""
    model: Loader
    """The base model."""
    adapter: Adapter
    """Which weights train."""
    data: Data
    """The data to learn from."""
    train: Trainer
    """How to train."""
    watch: list[Watcher] | None = None
    """Watchers of the training. Default: every installed one that is on by default."""
    answers: Engine | None = None
    """The engine that answers for the base and the tuned model, and how. Default: the installed one that is on by
    default, also for a block without `use:`."""
    against: dict[Annotated[str, Field(pattern=CONTESTANT)], Loader | Engine] = Field(default_factory=dict)
    """Contestants by name: other models, each by its loader or by an engine with a model of its own. They answer the
    same eval sets, and every evaluator compares the tuned model with each of them."""
    evaluate: list[Evaluator] = Field(default_factory=list)
    """Evaluators, each run on every eval set."""
    report: list[Reporter] = Field(default_factory=list)
    """Reporters. Default: every report that needs no options."""
    export: list[Exporter] = Field(default_factory=list)
    """Forms to write the trained model in; each is compared with the model that was evaluated."""

    _findings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def findings(self) -> tuple[str, ...]:
        """The findings of formatters that choose by the data, a sentence for each source."""
        return self._findings

    def resolved(self) -> dict[str, Any]:
        """Return the recipe with every default written out, ready for YAML. Reading it gives the same recipe."""
        unread = [] if reads_answers(self) else ["answers"]  # given though nothing reads it, it would be an error
        unread += [] if self.export else ["export"]  # so that a run of a release that knew no exports is still equal
        return {name: dump(getattr(self, name)) for name in type(self).model_fields if name not in unread}


def reads_answers(recipe: Recipe) -> bool:
    return recipe.train.answers_prompts or any(evaluator.reads_answers for evaluator in recipe.evaluate)


def components_of(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Component]]:
    """Return every component of a recipe with its path."""
    if isinstance(value, Component):
        yield path, value
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from components_of(getattr(value, name), (*path, name))
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from components_of(item, (*path, name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from components_of(item, (*path, index))
