"""Checkpoints of a training run: each is written whole or not at all, and the last and the best are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ftp.errors import ModelError
from ftp.files import file_digest, read_plain_file

WEIGHTS, PROGRESS, FILES = "weights.safetensors", "progress.json", "files.json"
HASHED_BYTES = 2**28
"""Up to this size a file of a checkpoint is known by its SHA-256, beyond it by its size alone: hashing takes time."""


@dataclasses.dataclass
class Progress:
    """The progress of a training, as kept in a checkpoint."""

    tokens: int = 0
    """Tokens that have gone through the model."""
    counted: int = 0
    """Those of them that a metric has already counted."""
    seconds: float = 0.0
    """Time spent training, over all processes."""
    best: float = math.inf
    """The lowest value of the metric named in `best_by`; scores are negated."""
    best_step: int = 0
    """The step of the best state; 0 before the first validation after a step."""
    best_loss: float = math.inf
    """The validation loss of the best state."""
    first: float = math.inf
    """The validation loss before the first step."""
    factor: float = 1.0
    """The product of the factors by which roll-backs have changed the learning rate."""
    stopped: bool = False
    """Whether a watcher has stopped the training."""


class Checkpoints:
    """`step-<N>/` to resume from, `best-<N>/` for the best weights; both hold only the weights that train.

    The name of the best state contains its step, so that the last checkpoint always finds the one that it refers to,
    whatever was written later.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def last(self) -> Path | None:
        """Return the newest whole checkpoint, or None."""
        return max(self._whole(), key=step_of, default=None)

    def _whole(self) -> list[Path]:
        return [path for path in self.directory.glob("step-*") if re.fullmatch(r"step-\d{8,12}", path.name)]

    def best(self, step: int) -> Path:
        """Return the directory with the weights of the best state, found at `step`."""
        return self.directory / best_name(step)

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[Path]:
        """Yield a directory to fill; it gets its name once everything in it is on disk.

        Raises:
            ModelError: it can't be written; the checkpoint before it is unchanged.
        """
        target, aside = self.directory / name, self.directory / f"{name}.part"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            yield aside
            (aside / FILES).write_text(json.dumps(_list(aside)), encoding="utf-8")
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            if target.exists():  # from before a resume; no checkpoint refers to it, so it may be missing for a moment
                old = self.directory / f"{name}.old.part"
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
                shutil.rmtree(old)
            aside.rename(target)
            _sync(self.directory)
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch.save and safetensors report a full disk in exceptions of their own.
            shutil.rmtree(aside, ignore_errors=True)
            before = self.last()
            kept = f"the last one, {before}, is kept" if before else "there is no earlier one"
            raise ModelError(
                f"{target}: the checkpoint can't be written: {_first_line(error)}; {kept}. Free some space and "
                f"continue with `ftp resume {self.directory.parent}`"
            ) from error

    def keep_only(self, step: int, best_step: int, count: int = 1) -> None:
        """Remove everything except the last checkpoints up to this step, and the best states that they refer to.

        Args:
            count: how many checkpoints are kept.
        """
        kept = {step_name(step), best_name(best_step)}
        earlier = sorted((path for path in self._whole() if step_of(path) < step), key=step_of)
        for path in earlier[len(earlier) - count + 1 :]:
            with contextlib.suppress(ModelError):  # a damaged one is of no use
                kept |= {path.name, best_name(load_progress(path).best_step)}
        for path in (*self.directory.glob("step-*"), *self.directory.glob("best-*")):
            if path.name not in kept:
                shutil.rmtree(path)

    def remove(self) -> None:
        """Remove all checkpoints."""
        shutil.rmtree(self.directory, ignore_errors=True)


def step_name(step: int) -> str:
    """Return the name of the checkpoint of a step."""
    return f"step-{step:08d}"


def best_name(step: int) -> str:
    """Return the name of the best state of a step."""
    return f"best-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a checkpoint."""
    return int(checkpoint.name.removeprefix("step-"))


def save_weights(directory: Path, model: torch.nn.Module) -> None:
    """Write the weights that train, in their own data types."""
    trained = {name: weight.detach().contiguous() for name, weight in _trained(model).items()}
    save_file(trained, directory / WEIGHTS)


def load_weights(directory: Path, model: torch.nn.Module) -> None:
    """Load the weights written by `save_weights` back into the same model.

    Raises:
        ModelError: they are those of another model or adapter, or damaged.
    """
    with reading(directory):
        stored = load_file(directory / WEIGHTS)
    weights = _trained(model)
    if {name: w.shape for name, w in weights.items()} != {name: w.shape for name, w in stored.items()}:
        raise ModelError(f"{directory}: holds the weights of another model or adapter; begin a run with `ftp run`")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(stored[name])


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_progress(directory: Path, progress: Progress) -> None:
    """Write the progress of a training, replacing an earlier file atomically."""
    aside = directory / f"{PROGRESS}.part"
    aside.write_text(json.dumps(dataclasses.asdict(progress)), encoding="utf-8")
    _sync(aside)
    aside.replace(directory / PROGRESS)


def load_progress(directory: Path) -> Progress:
    """Read the progress written by `save_progress`."""
    with reading(directory):
        text = read_plain_file(directory / PROGRESS, 2**20).decode()
        return TypeAdapter(Progress).validate_python(json.loads(text))


def check(directory: Path) -> None:
    """Compare the files of a checkpoint with what was written down of them when it was saved.

    One of an older release has nothing to compare with.

    Raises:
        ModelError: a file is damaged, or there are others than there were.
    """
    if not (directory / FILES).exists():
        return
    with reading(directory):
        listed = json.loads(read_plain_file(directory / FILES, 2**20))
        found = _list(directory)
        changed = [name for name in sorted({*listed, *found}) if listed.get(name) != found.get(name)]
        if changed:
            raise ValueError(f"{', '.join(changed[:3])} {'is' if len(changed) == 1 else 'are'} not what was saved")


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Turn whatever a damaged checkpoint makes the libraries raise into a ModelError that names it."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the libraries raise many kinds
        raise ModelError(
            f"{directory}: the checkpoint is damaged ({_first_line(error)}); restore it from a copy, or remove it: "
            f"then `ftp resume {directory.parent.parent}` begins training again"
        ) from error


def _list(directory: Path) -> dict[str, list[Any]]:
    """Return size and SHA-256 of the files of a checkpoint, by name; `progress.json` is written again later."""
    found: dict[str, list[Any]] = {}
    for file in sorted(directory.rglob("*")):
        if file.name not in (PROGRESS, FILES) and not file.is_dir():
            if file.is_symlink() or not file.is_file():
                raise ValueError(f"{file.name} is not a plain file")
            size = file.stat().st_size
            found[str(file.relative_to(directory))] = [size, file_digest(file) if size <= HASHED_BYTES else ""]
    return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
