"""Whom to talk to: models in memory, or a model of a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ftp.cli.consent import ask_for_run
from ftp.cli.options import load_plugins
from ftp.cli.run import quiet_libraries
from ftp.cli.show import show
from ftp.data.examples import read_examples, shared_system
from ftp.errors import FtpError, RunError
from ftp.files import first_line
from ftp.lm.answering import AnsweringModel, together
from ftp.lm.sampling import Sampling
from ftp.recipe.model import Recipe
from ftp.runs.directory import RunDirectory
from ftp.stages.load_model import load_base_model, restore_adapter
from ftp.stages.trained_model import TrainedModel, answering, load_runs, open_run, tokenizer_in
from ftp.types import Message


class Partner(Protocol):
    """One or two models that answer side by side."""

    @property
    def names(self) -> Sequence[str]:
        """What they are called."""

    @property
    def recipe(self) -> Recipe | None:
        """The recipe of the run, for the form of its rows; None without a run."""

    @property
    def system(self) -> str:
        """The system turn under which the run was evaluated; empty for none."""

    def stream(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, str]]:
        """Yield the answers piece by piece, each with the number of its model.

        Args:
            conversations: one for each model.
        """

    def close(self) -> None:
        """End what is open."""


@dataclass(frozen=True)
class Local:
    """Models in memory."""

    models: Sequence[AnsweringModel]
    sampling: Sampling
    recipe: Recipe | None = None
    system: str = ""

    @property
    def names(self) -> Sequence[str]:
        return [model.name for model in self.models]

    def stream(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, str]]:
        pairs = zip(self.models, conversations, strict=True)
        requests = [(model, model.chat(messages, self.sampling)) for model, messages in pairs]
        for number, piece in together(requests):
            yield number, piece.text

    def close(self) -> None:
        """Do nothing: the model goes with the process."""


UNREADABLE = (ValueError, TypeError, AttributeError, RecursionError)
"""What the client raises for an answer of another form."""


@dataclass(frozen=True)
class Served:
    """A model of an OpenAI-compatible server."""

    client: Any
    url: str
    key: str
    model: str
    sampling: Sampling
    recipe: Recipe | None = None
    system: str = ""

    @property
    def names(self) -> Sequence[str]:
        return [self.model]

    def stream(self, conversations: Sequence[Sequence[Message]]) -> Iterator[tuple[int, str]]:
        import httpx2
        import openai

        from ftp_plugins.commands.chat.connection import failure

        sampling = self.sampling
        limits = {"max_tokens": sampling.max_new_tokens, "seed": sampling.seed}
        answered = False
        try:
            chunks = self.client.chat.completions.create(
                model=self.model,
                messages=[{"role": turn.role, "content": turn.content} for turn in conversations[0]],
                stream=True,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                **{name: value for name, value in limits.items() if value is not None},
            )
            with chunks:
                for chunk in chunks:
                    for choice in chunk.choices or ():
                        yield 0, "" + (choice.delta.content or "")
                        answered = True
        except (openai.OpenAIError, httpx2.HTTPError, *UNREADABLE) as error:
            raise failure(self.url, self.key, error) from None
        if not answered:
            raise FtpError(f"{self.url}: no answer came")

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


def open_server(url: str, model: str | None, key_name: str | None, sampling: Sampling) -> Served:
    """Connect to a server.

    Args:
        model: one of its models; None for the first.
        key_name: the environment variable with the key.

    Raises:
        FtpError: there is no server, it has no such model, or the variable is not set.
    """
    try:
        import openai

        from ftp_plugins.commands.chat.connection import check_address, failure, http_client, key_in
    except ModuleNotFoundError:
        raise FtpError("--server needs openai: pip install 'ftp-finetune[judge]'") from None
    check_address(url)
    key = key_in(key_name)
    client = openai.OpenAI(base_url=url, api_key=key or "none", http_client=http_client())
    try:
        model = model or next((str(each.id) for each in client.models.list() if each.id), None)
        if model is None:
            raise FtpError(f"{url}: the server names no model; --model names one")
    except (openai.OpenAIError, *UNREADABLE) as error:
        client.close()
        raise failure(url, key, error) from None
    except FtpError:
        client.close()
        raise
    return Served(client, url, key, model[:200], sampling)


def open_local(
    path: Path, base: bool, files: tuple[Path, ...], without: tuple[str, ...], trust: bool, sampling: Sampling
) -> Local:
    """Load the model of a run, of a directory or of a GGUF file.

    Args:
        base: also its base model, as the second one.

    Raises:
        FtpError: it can't be loaded.
    """
    recipe = None
    if (path / "run.lock.json").is_file():
        run = open_run(path, load_plugins(files, without))
        ask_for_run(run.directory, run.needs, trust)
        recipe = run.recipe
        quiet_libraries()
        with show() as progress:
            progress.stage("Loading the model")
            [model] = load_runs([run], progress.note)
            models = [model.tuned, model.base] if base else [model.tuned]
        return Local(models, sampling, recipe, _system_of(run.directory, recipe))
    if base and not (path / "adapter_config.json").is_file():
        raise RunError(f"{path}: --base is for runs and adapters; this is neither")
    quiet_libraries()
    with show() as progress:
        progress.stage("Loading the model")
        model = _model_of_files(path, trust, progress.note)
    return Local([model.tuned, model.base] if base else [model.tuned], sampling)


def _system_of(directory: RunDirectory, recipe: Recipe) -> str:
    """Return the system turn with which the prompts of all the recipe's eval sets begin; empty for none."""
    files = [directory.place(f"data/eval-{name}.arrow") for name in recipe.data.evals]
    return shared_system(example for file in files if file.is_file() for example in read_examples(file))


def _model_of_files(path: Path, trust: bool, note: Any) -> TrainedModel:
    """Load a model directory, an adapter directory or a GGUF file."""
    from ftp.lm.torch_decode import Decoder
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.loaders.gguf import Gguf
    from ftp_plugins.loaders.huggingface import HuggingFace

    if path.suffix == ".gguf":
        loaded = load_base_model(Gguf(file=str(path.absolute())), None, note)
    elif (path / "adapter_config.json").is_file():
        loaded = load_base_model(HuggingFace(id=_base_of(path), trust_remote_code=trust), None, note)
        name = loaded.name
        tuned = restore_adapter(LoRA(), loaded, path)
        assert tuned is not None
        has_own = (path / "tokenizer_config.json").is_file()
        tokenizer = tokenizer_in(path) if has_own else loaded.tokenizer
        decoder = Decoder(tuned.model)
        with_adapter = answering(path.name, decoder, tuned, tokenizer, tuned.model.active_adapter)
        return TrainedModel(with_adapter, lambda: answering(name, decoder, tuned, tokenizer, None))
    elif (path / "config.json").is_file():
        loaded = load_base_model(HuggingFace(id=str(path.absolute()), trust_remote_code=trust), None, note)
    else:
        raise RunError(f"{path}: no run, no model directory and no GGUF file")
    return TrainedModel(answering(loaded.name, Decoder(loaded.model), loaded, loaded.tokenizer, None))


def _base_of(path: Path) -> str:
    """Return the base model that an adapter names."""
    import json

    file = path / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, OSError, AttributeError, RecursionError) as error:
        raise RunError(f"{file}: can't be read: {first_line(error)}") from None
    if not isinstance(base, str) or not 0 < len(base) <= 1000:
        raise RunError(f"{file}: names no base model; talk to the run that it is from")
    return base
