"""The frozen objects that flow from one stage to the next. Nothing here does any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
ControlTokenRule = Literal["text", "refuse", "allow"]
"""Control tokens that a row's text spells out: they stay text, or the row is refused, or they count as the tokens."""
Kind = Literal["conversation", "preference", "feedback", "text"]
"""What an example is: turns with an answer to learn; the same with a rejected answer; the same with a verdict on the
answer; or running text."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    train: bool = True
    """Whether an assistant's turn carries loss; the last one always should."""
    tool_calls: str = ""
    """The assistant's calls as JSON text, `[{"type": "function", "function": {"name": …, "arguments": {…}}}]`."""
    name: str = ""
    """For a tool's turn: the tool that answered."""
    tool_call_id: str = ""
    """For a tool's turn: the id of the call that it answers."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row, as every later stage sees it.

    A formatter fills `messages` (a conversation, which ends with the assistant's answer) or `text`, and `rejected`,
    `label`, `tools` where a row has them. The other fields say where the row came from and are filled by the data
    stage.
    """

    messages: tuple[Message, ...] = ()
    text: str = ""
    id: str = ""
    """`file:line` or `hub-id/split:row`; unique in a run."""
    source: str = ""
    """The file or hub id."""
    role: str = "domain"
    """`domain`, or `replay` for general data mixed in against forgetting."""
    rejected: tuple[Message, ...] = ()
    """For preference data: the turns of the rejected answer, in place of the last turn."""
    label: bool | None = None
    """For feedback data: whether the last turn was a good answer."""
    tools: str = ""
    """JSON text of the list of tools that the assistant may call, as chat templates take it."""
    origin: str = ""
    """The name of the source in the recipe."""
    group: str = ""
    """Rows of one group are never on both sides of a split; empty: a group of its own."""
    control_tokens: ControlTokenRule = "text"
    """What becomes of control tokens such as `<|im_end|>` that its text spells out."""
    weight: float = 1.0
    """What the loss of its trained tokens is multiplied by in training."""

    @property
    def kind(self) -> Kind:
        if not self.messages:
            return "text"
        return "preference" if self.rejected else "conversation" if self.label is None else "feedback"

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last answer."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The answer to learn: the last turn, or the whole text."""
        return self.messages[-1].content if self.messages else self.text


@dataclass(frozen=True, slots=True)
class Quantization:
    """Weights stored in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), or in 8 (`int8`, arXiv:2208.07339)."""

    scheme: Literal["nf4", "fp4", "int8"]
    double: bool
    """Whether the scales of the blocks are quantised too."""
    compute_dtype: str
    """`bfloat16`, `float16` or `float32`: what the weights are unpacked to for each product; `auto` for what the
    machine multiplies fastest."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The request for a model: the loader describes the model, the adapter's `prepare` changes what it needs changed.

    A plain value: changing one loads nothing.
    """

    model: str
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""
    quantization: Quantization | None = None
    already_quantized: str | None = None
    """The name of the quantisation method when the stored weights are quantised and stay so."""
    linear_modules: frozenset[str] | None = None
    """Last path parts of the linear layers, without the output head; None when the loader can't tell."""
    modules: frozenset[str] | None = None
    """Last path parts of everything that has weights of its own, embeddings and output head included; None when the
    loader can't tell."""
    layers: int | None = None
    """How many decoder layers it has; None when the loader can't tell."""
    experts: frozenset[str] = frozenset()
    """For a mixture of experts: the weights that hold all experts of a layer, such as `experts.down_proj`."""
    new_tokens: tuple[str, ...] = ()
    """Tokens that the loader adds to the model's vocabulary."""
    layer_shapes: frozenset[tuple[int, int]] = frozenset()
    """(out, in) of the linear layers, without the output head."""
    parameters: int | None = None
    """How many weights it has; None when the loader can't tell."""
    compute: str = "auto"
    """`float32` or `bfloat16`: what this machine multiplies fastest; `auto` to measure it when the model is loaded."""
    stored_dtype: str | None = None
    """The data type of the stored weights, as torch names it; None when the loader can't tell."""
    frozen: bool = False
    """Set by an adapter beside whose own weights the linear layers never change: a loader may then hold them in a type
    that is as exact and smaller than `dtype`, and unpack them for each product."""


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """The tokenizer of a model, loaded without the model's weights."""

    tokenizer: Any
    """A fast tokenizer whose `chat_template` is set and whose `pad_token_id` is not None."""
    stops: tuple[int, ...]
    """The tokens that end an answer, in rising order."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as that a default chat template is used."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A causal language model in memory with its tokenizer.

    `model` is a `transformers.PreTrainedModel` or a `peft.PeftModel`, `tokenizer` a fast tokenizer whose
    `chat_template` is set and whose `pad_token_id` is not None.
    """

    model: Any
    tokenizer: Any
    name: str
    fingerprint: str
    """SHA-256 over the model's files."""
    request: ModelRequest
    notes: tuple[str, ...] = ()
    """What the user should know about the load: a default template, trusted code, the chosen dtype."""
    new_tokens: tuple[int, ...] = ()
    """The ids of the tokens that the loader added; their embeddings are untrained."""
    unquantized: Callable[[], Any] | None = None
    """Loads the same model with unquantised weights, on the CPU; set for a model that was quantised on loading."""
    gflops: Mapping[str, float] = field(default_factory=dict)
    """The measured speed of matrix products by type, from which `request.compute` was chosen; empty where it wasn't."""


Weights = Literal["trained", "plain", "original"]
"""Which form of a run's model to load: `trained` as it was evaluated; `plain` the same with a quantised base
dequantised; `original` with the trained weights on the base as it was before it was quantised: another model."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A model opened for comparison, with its own tokenizer and chat template."""

    engine: str
    """What opened it, with its version."""
    encode: Callable[[Example], Sequence[int]]
    """The prompt of an example of turns as token ids."""
    encode_text: Callable[[str], Sequence[int]]
    """Plain text as token ids, with the special tokens that the tokenizer adds by itself."""
    logits: Callable[[Sequence[int]], Any]
    """The logits behind every token, a float32 array or tensor on the CPU, [tokens, vocabulary]."""
    answer: Callable[[Sequence[int], int], Sequence[int]]
    """Greedy continuation of token ids by at most so many tokens, the one that ends it included."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How near an exported model is to the model of the run."""

    prompts: int
    same_ids: int
    """Prompts whose token ids are equal."""
    positions: int
    """Positions whose predictions were compared: the last ones of each prompt and the answer to it."""
    top1: float
    """Share of the positions at which both think the same token likeliest."""
    kl: float
    """Mean KL (Kullback-Leibler) of the export from the run, in nats per position."""
    kl_max: float
    same_answers: float
    """Share of the prompts whose greedy answers are the same tokens."""
    first_difference: str = ""
    """The first prompt with other ids, in words; empty for none."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A watcher's answer: end training now, with everything saved."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """A watcher's answer: return to the last good checkpoint and continue from there at a lower rate."""

    reason: str
    factor: float = 0.5
    """Factor for the learning rate from there on."""


@dataclass(frozen=True, slots=True)
class Warn:
    """A watcher's answer: show this warning and continue."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A trained model: the best checkpoint, not merely the last."""

    model: LoadedModel
    steps: int
    best_step: int
    trained_tokens: int
    """Trained tokens, over all epochs."""
    seconds: float
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a model to the prompt of one example."""

    text: str
    tokens: int
    """Generated tokens, without the one that ended the answer."""
    stopped: bool
    """Whether the model ended the answer by itself rather than at the limit."""
    seconds: float | None = field(default=None, compare=False)
    """What it took; for answers given together the share of each. None where it was not measured."""
    cost: float | None = field(default=None, compare=False)
    """What it cost, in the currency of the recipe's prices; None without prices."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """How well a model predicts one example's reference."""

    nll: float
    """Summed negative log-likelihood in nats."""
    tokens: int


@dataclass(frozen=True, slots=True)
class EvalView:
    """One eval set with the results of both models; the four sequences run parallel to `examples`.

    The answers are empty when no evaluator of the recipe reads answers.
    """

    name: str
    examples: Sequence[Example]
    base_answers: Sequence[Answer]
    tuned_answers: Sequence[Answer]
    base_losses: Sequence[TokenLoss]
    tuned_losses: Sequence[TokenLoss]
    directory: Path | None = None
    """The run directory, for an evaluator that writes files of its own; None outside a run."""
    base_measured: Mapping[str, Any] = field(default_factory=dict)
    """What the evaluator's `measure` returned for the base model; empty for one that measures nothing."""
    tuned_measured: Mapping[str, Any] = field(default_factory=dict)
    """The same for the tuned model."""
    base_values: Sequence[Any] = ()
    """What the evaluator's `measure_examples` returned for the base model, a value for each example."""
    tuned_values: Sequence[Any] = ()
    """The same for the tuned model."""
    samples: int = 1
    """Answers to each prompt: an example with several is repeated, once for each, beside one another."""


@dataclass(frozen=True, slots=True)
class Score:
    """An evaluator's score of one answer."""

    value: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference (or a rate, a correlation) with its confidence interval; `method` says how it was made."""

    mean: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure for both models, paired example by example."""

    name: str
    base: float
    tuned: float
    difference: Interval | None
    """Tuned minus base; None when there are too few examples for an interval."""
    higher_is_better: bool = True
    base_scores: tuple[float, ...] = ()
    tuned_scores: tuple[float, ...] = ()
    base_reasons: tuple[str, ...] = ()
    tuned_reasons: tuple[str, ...] = ()
    bootstrap: Interval | None = None
    """A second opinion on the difference; the verdict rests on `difference`."""
    p_value: float | None = None
    """Two-sided, for the null hypothesis of no difference."""
    test: str = ""
    """The test that the p-value comes from."""
    p_adjusted: float | None = None
    """The p-value adjusted for the other metrics of the run (`ftp.stats.holm`); filled in by the pipeline."""
    effect: float | None = None
    effect_name: str = ""
    """What kind of effect size `effect` is (`ftp.stats.effect_size`)."""
    detectable: float | None = None
    """The smallest true difference that 80 of 100 such evaluations would find; None where none can be found."""
    weights: tuple[float, ...] = ()
    """How much each example counts; empty if all count the same."""
    clusters: tuple[str, ...] = ()
    """The cluster of each example, see `ftp.clusters_of`; empty: each is one by itself."""
    limits: tuple[float, ...] = ()
    """The lowest and the highest score that there can be; empty: not known."""
    worst: Interval | None = None
    """The difference if every example without a score had spoken against what the others found; None where all have
    one, or where `limits` are not known. A verdict has to hold here too."""
    family: str = ""
    """Metrics of one evaluation with the same family are figures of one thing, such as ROUGE-1 and ROUGE-L, and count
    once when metrics are counted; empty: it stands by itself."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluator on one eval set."""

    metrics: tuple[Metric, ...]
    notes: tuple[str, ...] = ()
    evaluator: str = ""
    """Its name in the recipe; filled in by the pipeline."""
    evals: str = ""
    """The eval set; filled in by the pipeline."""
    n: int = 0
    panel: Mapping[str, float | str] = field(default_factory=dict, compare=False)
    """How reliable the instrument was and what it cost, by name; no part of the result."""
    subsets: Mapping[str, tuple[Metric, ...]] = field(default_factory=dict)
    """The same metrics on the `clean` and the `leaked` rows alone, where the ledger knows of leaks."""
    against: str = ""
    """The contestant whose answers stand in the place of the base model's; empty for the base model itself."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the answers of a model to all eval sets took, on average."""

    who: str
    """`base`, `tuned` or the name of a contestant."""
    answers: int
    tokens: float
    """Generated tokens of an answer."""
    seconds: float | None
    """Seconds for an answer; None where they were not measured."""
    cost: float | None
    """Cost of an answer, in the currency of the recipe's prices; None without prices."""


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run, as reporters see it: plain data, complete, read back from the run directory."""

    directory: Path
    name: str
    id: str
    recipe: Mapping[str, Any]
    """The resolved recipe: every default written out."""
    lock: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluations: Sequence[Evaluation]
    views: Sequence[EvalView]
    events: Sequence[Mapping[str, Any]]
    ledger_totals: Sequence[Mapping[str, Any]] = field(default=())
    against: Sequence[Evaluation] = ()
    """Comparisons of the tuned model with the recipe's contestants; `base` in their metrics is the contestant."""
    usage: Sequence[Usage] = ()
    """What the answers of each model took: of base, tuned and every contestant."""
    reports: Sequence[Path] = ()
    """The files that its reporters wrote, in order; empty until then."""
    exports: Sequence[Mapping[str, Any]] = ()
    """The export.json of each of its exports."""
