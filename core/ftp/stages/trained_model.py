"""Models of runs to talk to: `ftp.load`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftp import plugins as plugin_loading
from ftp import recipe as recipes
from ftp.errors import ModelError, RunError
from ftp.guard import call
from ftp.lm.answering import AnsweringModel, as_messages, together
from ftp.lm.sampling import Piece, Request, Sampling
from ftp.plugins import Plugins
from ftp.provenance import trust as consents
from ftp.provenance.fingerprints import fingerprint_of
from ftp.provenance.lock import lock_of
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory
from ftp.stages.load_model import load_base_model
from ftp.stages.load_trained import load_base_of, restored
from ftp.types import LoadedModel, Message, ModelRequest


class TrainedModel:
    """A model to talk to, with the base model that it was made from.

    Made by `ftp.load`. Answers are decoded greedily unless a temperature is given, as in the evaluation.

    Args:
        tuned: the model.
        base: returns the base model, which may have to be loaded first; None where there is none.
    """

    def __init__(self, tuned: AnsweringModel, base: Callable[[], AnsweringModel] | None = None) -> None:
        self.tuned, self._load_base = tuned, base
        self._base: AnsweringModel | None = None

    @property
    def base(self) -> AnsweringModel:
        """The base model. With an adapter it is the same model in memory, else it is loaded at the first use.

        Raises:
            ModelError: there is none.
        """
        if self._base is None:
            if self._load_base is None:
                raise ModelError(f"{self.tuned.name}: a model without a run has no base model")
            self._base = self._load_base()
        return self._base

    def answer(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        base: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> str:
        """Return the answer to a prompt or a conversation.

        Args:
            prompt: a user's turn; or give `messages`.
            messages: turns such as `{"role": "user", "content": "…"}`, in OpenAI's form.
            base: ask the base model instead.
            tools: schemas of the functions that the chat template is given.
            max_new_tokens: the longest answer in tokens; None for as many as the model's context holds.
            temperature: 0 for greedy decoding.
            top_p: share of the probability that tokens are drawn from.
            seed: seed of the draws.
            stop: texts that end the answer.

        Raises:
            ModelError: the chat template refuses the messages, or they don't fit into the context.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop))
        request = self._request(prompt, messages, base, tools, sampling)
        return "".join(piece.text for _, piece in together([request])).strip()

    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, Any]] | None = None,
        base: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer piece by piece; the arguments are those of `answer`.

        Closing the iterator ends the generation.
        """
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, tuple(stop))
        request = self._request(prompt, messages, base, tools, sampling)
        return (piece.text for _, piece in together([request]) if piece.text)

    def stream_both(
        self, tuned: Sequence[Message], base: Sequence[Message], sampling: Sampling
    ) -> Iterator[tuple[int, Piece]]:
        """Yield the pieces of the answers of both models, in one batch where they share one model in memory.

        Returns:
            0 with those of the tuned model, 1 with those of the base model.
        """
        both = [(self.tuned, tuned), (self.base, base)]
        return together([(model, model.chat(messages, sampling)) for model, messages in both])

    def _request(
        self,
        prompt: str | None,
        messages: Sequence[Mapping[str, Any]] | None,
        base: bool,
        tools: Sequence[Mapping[str, Any]],
        sampling: Sampling,
    ) -> tuple[AnsweringModel, Request]:
        if (prompt is None) == (messages is None):
            raise ModelError("give a prompt or messages, and not both")
        turns = [Message("user", prompt)] if prompt is not None else as_messages(messages or [])
        model = self.base if base else self.tuned
        return model, model.chat(turns, sampling, json.dumps(list(tools)) if tools else "")


def load(path: str | Path, *, plugins: Sequence[str | Path] = (), trust: bool = False) -> TrainedModel:
    """Load the model of a run as it was evaluated.

    The base model is loaded and prepared as the recipe says, the trained weights are put on it, and the tokenizer and
    chat template are those in the run.

    Args:
        path: the run directory.
        plugins: Python files with components that the recipe names, as `-p` on the command line.
        trust: let a run that was not made by you on this machine run code that comes with its model, for example.

    Raises:
        RunError: it is not a run, has no trained model yet, its base model has changed, or it needs your trust.
        ModelError: the model can't be loaded, or the trained weights can't be put on it.
    """
    installed = plugin_loading.load([Path(file) for file in plugins])
    run = open_run(Path(path), installed)
    if not trust and (needed := consents.missing(run.directory, run.needs)):
        lines = "\n".join(f"  - {what}" for what in needed)
        raise RunError(
            f"{path}: this run was not made on this machine by you. It would\n{lines}\ntrust=True allows it."
        )
    return load_runs([run])[0]


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run whose recipe is read and whose model isn't loaded yet."""

    name: str
    recipe: Recipe
    directory: RunDirectory

    @property
    def needs(self) -> list[str]:
        """What loading its model does that needs consent."""
        return consents.of_recipe([self.recipe.model, self.recipe.adapter])


def open_run(path: Path, plugins: Plugins, name: str = "") -> OpenRun:
    """Read the recipe of a run.

    Args:
        name: what its model is called; the name of the run if left out.

    Raises:
        RunError: it is not a run, or it has no trained model yet.
    """
    directory = RunDirectory(path)
    lock_of(directory)
    if "train" not in directory.stages():
        raise RunError(f"{path}: no trained model in it; `ftp resume {path}` goes on with it")
    recipe = recipes.read(directory.place("resolved.yaml"), plugins)
    return OpenRun(name or recipe.name, recipe, directory)


def load_runs(
    runs: Sequence[OpenRun], note: Callable[[str], object] = lambda text: None, most_rows: int = 16
) -> list[TrainedModel]:
    """Load the models of several runs. Adapters on the same base model share it, and answer in one batch.

    Args:
        note: called with each sentence that the user should read.
        most_rows: requests that one base model decodes at once.

    Raises:
        RunError: the base model of a run has changed.
        ModelError: a model can't be loaded.
    """
    from ftp.lm.torch_types import fits

    shared: dict[tuple[str, ModelRequest], _Shared] = {}
    found = []
    for run in runs:
        request = call(ModelRequest, run.recipe.adapter.prepare, call(ModelRequest, run.recipe.model.describe))
        held = request.frozen and not fits(request.parameters)
        key = (fingerprint_of(lock_of(run.directory)), dataclasses.replace(request, model="", frozen=held))
        if key in shared and shared[key].takes(run):
            found.append(shared[key].add(run))
            continue
        one = _Shared(run, note, most_rows)
        shared.setdefault(key, one)
        found.append(one.first)
    return found


class _Shared:
    """A base model in memory with the adapters of one or more runs."""

    def __init__(self, run: OpenRun, note: Callable[[str], object], most_rows: int) -> None:
        from ftp.lm.torch_bfloat16 import hold_in_float32
        from ftp.lm.torch_decode import Decoder
        from ftp.lm.torch_types import fits

        base = load_base_of(run.recipe, run.directory, note)
        if fits(base.request.parameters):
            hold_in_float32(base.model)  # every token reads all weights, which would be unpacked each time
        self.base_name, self.base_tokenizer = base.name, base.tokenizer
        self.loaded = restored(run.recipe, base, run.directory)
        self.adapters = hasattr(self.loaded.model, "peft_config")
        self.restores = type(run.recipe.adapter).restore
        self.decoder = Decoder(self.loaded.model, most_rows)
        adapter = self.loaded.model.active_adapter if self.adapters else None
        self.first = self._model(run, adapter, note, most_rows)

    def takes(self, run: OpenRun) -> bool:
        """Return whether another run's adapter can be put beside those that are there."""
        return self.adapters and type(run.recipe.adapter).restore is self.restores

    def add(self, run: OpenRun) -> TrainedModel:
        name = f"adapter-{len(self.loaded.model.peft_config)}"
        place = run.directory.place("model")
        self.loaded.model.load_adapter(place, name, is_trainable=False)
        self.loaded.model.eval()
        return self._model(run, name)

    def _model(
        self,
        run: OpenRun,
        adapter: str | None,
        note: Callable[[str], object] = lambda text: None,
        most_rows: int = 16,
    ) -> TrainedModel:
        tokenizer = tokenizer_in(run.directory.place("model"))
        tuned = answering(run.name, self.decoder, self.loaded, tokenizer, adapter)

        def base() -> AnsweringModel:
            if adapter is not None:
                return answering(self.base_name, self.decoder, self.loaded, tokenizer, None)
            from ftp.lm.torch_decode import Decoder

            loaded = load_base_model(run.recipe.model, run.recipe.adapter, note)
            return answering(loaded.name, Decoder(loaded.model, most_rows), loaded, loaded.tokenizer, None)

        return TrainedModel(tuned, base)


def answering(name: str, decoder: Any, loaded: LoadedModel, tokenizer: Any, adapter: str | None) -> AnsweringModel:
    """Return a loaded model with what it needs to answer."""
    from ftp.lm.rendering import stop_ids

    stops = stop_ids(tokenizer, loaded.model.generation_config.eos_token_id)
    return AnsweringModel(name, decoder, tokenizer, stops, adapter)


def tokenizer_in(directory: Path) -> Any:
    """Load the tokenizer that a run has saved, with its chat template.

    Raises:
        ModelError: it is missing or damaged.
    """
    from transformers import AutoTokenizer

    from ftp.files import first_line
    from ftp.lm.hf_tokenizer import finish_tokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # the libraries raise many kinds; the user needs the place and the reason
        raise ModelError(f"{directory}: the tokenizer can't be loaded: {first_line(error)}") from None
    finish_tokenizer(tokenizer)
    return tokenizer
