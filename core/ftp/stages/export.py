"""Exports of a run, each compared with the model that was evaluated before it takes its place."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ftp.components import Adapter, Exporter, ExportJob
from ftp.data.examples import read_examples
from ftp.errors import ExportError, FtpError, ModelError, RunError
from ftp.files import file_digest, finite, new_directory, remove, write_text
from ftp.guard import call
from ftp.lm.rendering import stop_ids
from ftp.options import Proof
from ftp.recipe.model import Recipe
from ftp.records.exports import RECORD
from ftp.results import finished
from ftp.runs.directory import RunDirectory
from ftp.slots import dump
from ftp.stages.load_model import give_memory_back
from ftp.stages.load_trained import load_base_of, load_trained, restored
from ftp.types import Example, Exported, LoadedModel, LoadedTokenizer, Parity, Weights

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_IN_WORDS = rf"\(os error ({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\)|\d+ requested and \d+ written"
"""How Rust (safetensors) and numpy say it."""


def rehearse_exports(exporters: Sequence[Exporter], base: LoadedModel, adapter: Adapter, place: Path) -> None:
    """Check on the base model that all exports will be possible, and that there is room for them.

    Args:
        place: a directory on the disk that the exports go to.

    Raises:
        ModelError: one of them can't be.
        RunError: there isn't enough room.
    """
    check_room(sum(_rehearsed(exporter, base, adapter) for exporter in exporters), place)


def _rehearsed(exporter: Exporter, base: LoadedModel, adapter: Adapter) -> int:
    try:
        return call(int, exporter.rehearse, base, adapter.saves_whole_model)
    except ModelError as error:
        raise ModelError(f"export: {exporter.used_as}: {error}") from None


def check_room(needed: int, place: Path) -> None:
    """Raise RunError where the disk of a directory, which need not be there yet, has less than so many bytes free."""
    there = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise RunError(
            f"{place}: the export takes up to {needed / 1e9:.2f} GB and {free / 1e9:.2f} GB are free; make room, or "
            "export elsewhere with -o"
        )


@contextlib.contextmanager
def no_full_disk(target: Path) -> Iterator[None]:
    """Turn what a full disk raises in the block into a RunError that says so, and give the room back."""
    try:
        yield
    except Exception as error:  # the libraries raise many kinds, some without the number of the error
        causes = [error, error.__cause__, error.__context__]
        number = next((cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno), None)
        said = " ".join(str(cause) for cause in causes if cause)
        if number not in FULL and not re.search(FULL_IN_WORDS, said):
            raise
        remove(target.with_name(f"{target.name}.part"))
        raise RunError(
            f"{target}: can't be written: the disk is full, or a limit on the size of files is reached; make room, or "
            "export elsewhere with -o"
        ) from error


@dataclass
class Exporting:
    """The exporters of one run at work."""

    recipe: Recipe
    directory: RunDirectory
    stage: Callable[[str, int | None], Callable[[int], None]]
    """Called with the title of a stage and its units; what it returns, with the units done."""
    note: Callable[[str], Any]
    _known: dict[Any, list[Any]] = field(default_factory=dict)
    _tokenizers: list[LoadedTokenizer] = field(default_factory=list)

    def begin(self, exporters: Sequence[Exporter], place: Path) -> None:
        """Check that a finished run can be exported, and ask its model what the exports will be compared with.

        Args:
            place: a directory on the disk that the exports go to.

        Raises:
            FtpError: it can't be exported; nothing is written then.
        """
        refuse_to_replace(place)
        self.stage("Loading the model", None)
        base = self.base()
        rehearse_exports(exporters, base, self.recipe.adapter, place)
        tuned = restored(self.recipe, base, self.directory)
        for exporter in exporters:
            if exporter.weights != "original" or base.request.quantization is None:
                self._reference("trained", exporter.proof, lambda: tuned)

    def export(self, exporter: Exporter, target: Path) -> Path:
        """Write one export and compare it with the run; one that is too far from it is named unproven and stays.

        Args:
            target: the directory that it becomes; an older one is replaced when the new one is whole.

        Returns:
            The directory; `TARGET-unproven` where the comparison was out of bounds.
        """
        refuse_to_replace(target)
        proof = filled(exporter.proof, call(Proof, exporter.usual_proof))
        rows = self._reference("original" if exporter.weights == "original" else "trained", proof)
        self.stage(f"Exporting {exporter.used_as}", None)
        with no_full_disk(target), new_directory(target) as aside:
            job = ExportJob(finished(self.directory), aside, self.load, self.base, self._tokenizers[0], self.note)
            path = call(Path, exporter.export, job)
            give_memory_back()
            record, misses = self._record(exporter, job, path, proof, rows)
            if misses and path.is_file():
                path = path.rename(path.with_name(f"{path.stem}-unproven{path.suffix}"))
            record["files"] = {str(file.relative_to(aside)): file_digest(file) for file in _files(aside)}
            record["main"] = str(path.relative_to(aside))
            write_text(aside / RECORD, json.dumps(finite(record), indent=2, ensure_ascii=False) + "\n")
            failed: FtpError | None = None
            try:
                call(object, exporter.finish, job, path, record)
            except FtpError as error:  # an upload, say; what is written stays
                failed = error
        unproven = target.with_name(f"{target.name}-unproven")
        shutil.rmtree(unproven, ignore_errors=True)
        written = target.replace(unproven) if misses else target
        if failed is not None:
            raise failed
        return written

    def load(self, weights: Weights) -> LoadedModel:
        return load_trained(self.recipe, self.directory, weights)

    def base(self) -> LoadedModel:
        return load_base_of(self.recipe, self.directory)

    def _record(
        self, exporter: Exporter, job: ExportJob, path: Path, proof: Proof, rows: Sequence[Any]
    ) -> tuple[dict[str, Any], list[str]]:
        same_model = exporter.weights != "original"
        evaluated = [] if same_model else self._reference("trained", proof)
        self.stage(f"Comparing {exporter.used_as} with the run", None)
        export = call(Exported, exporter.reopen, job, path)
        parity = compared(rows, export)
        misses = out_of_bounds(parity, proof)
        record: dict[str, Any] = {
            "format": exporter.used_as,
            "run": f"{self.directory.name}/{self.directory.id}",
            "options": dump(exporter),
            "engine": export.engine,
            "proven": not misses,
            "misses": misses,
            "parity": dataclasses.asdict(parity),
            "bounds": proof.model_dump(),
            "evaluated": same_model,
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if not same_model:
            record["against_evaluated"] = dataclasses.asdict(compared(evaluated, export))
        return record, misses

    def _reference(self, weights: Weights, proof: Proof, load: Callable[[], LoadedModel] | None = None) -> list[Any]:
        """Return what the model of the run makes of the prompts; it is asked once for all exports that ask the same."""
        from ftp.lm.torch_parity import opened, reference

        key = (weights, proof.prompts, proof.max_new_tokens)
        if key not in self._known:
            examples = list(prompts_of(self.directory.path))[: proof.prompts]
            if not examples:
                raise RunError(f"{self.directory.path}: has no eval or validation rows to compare an export on")
            self.stage("Asking the model of the run", None)
            loaded = load() if load else self.load(weights)
            stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
            self._tokenizers = [LoadedTokenizer(loaded.tokenizer, stops)]
            self._known[key] = reference(opened(loaded.model, loaded.tokenizer, "the run"), examples, proof)
            give_memory_back()
        return self._known[key]


def compared(rows: Sequence[Any], export: Exported) -> Parity:
    """Compare an export with a reference; see `ftp.lm.torch_parity.compare`."""
    from ftp.lm.torch_parity import compare

    return compare(rows, export)


def prompts_of(run: Path) -> Iterator[Example]:
    """Yield the examples of a run's eval sets, then those that it was validated on."""
    for file in [*sorted((run / "data").glob("eval-*.arrow")), run / "data" / "validation.arrow"]:
        yield from read_examples(file)


def refuse_to_replace(target: Path) -> None:
    """Raise RunError for a directory that isn't an export, or none that is whole: it would be lost.

    Args:
        target: where an export goes; one that isn't proven goes beside it.
    """
    for place in (target, target.with_name(f"{target.name}-unproven")):
        if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / RECORD).is_file()):
            raise RunError(f"{place}: is there already and no export, so it isn't replaced; name another place with -o")


def filled(proof: Proof, usual: Proof) -> Proof:
    """Return the bounds of a recipe, with a format's usual ones where it gives none."""
    usual_bounds = {name: getattr(usual, name) for name in ("kl", "top1", "same_answers")}
    return proof.model_copy(update={k: v for k, v in usual_bounds.items() if getattr(proof, k) is None})


def out_of_bounds(parity: Parity, proof: Proof) -> list[str]:
    """Say in words what an export misses; nothing where it is within all bounds."""
    found = []
    if parity.same_ids < parity.prompts:
        found.append(f"{parity.prompts - parity.same_ids} of {parity.prompts} prompts have other token ids")
    # `not <=`, so that NaN is out of bounds.
    if proof.kl is not None and not parity.kl <= proof.kl:
        found.append(f"KL {parity.kl:.2g} nats per token, where at most {proof.kl:g} is allowed")
    if proof.top1 is not None and not parity.top1 >= proof.top1:
        found.append(f"the same next token at {parity.top1:.1%}, where {proof.top1:.1%} is asked for")
    if proof.same_answers is not None and not parity.same_answers >= proof.same_answers:
        found.append(f"the same answer to {parity.same_answers:.1%}, where {proof.same_answers:.1%} is asked for")
    return found


def refuse_unproven(directories: Sequence[Path]) -> None:
    """Raise ExportError where one of these exports is not proven."""
    lines = []
    for directory in directories:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        if record["misses"]:
            lines.append(f"{directory}: not proven to be the model of the run: {'; '.join(record['misses'])}")
    if lines:
        raise ExportError("\n".join(lines))


def _files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.rglob("*") if file.is_file())
