"""What FTP relies on in a curator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftp.components import Curator
from ftp.data.examples import Corpus, Examples, write_examples
from ftp.data.ledger import Ledger
from ftp.testing.conformance.common import attempt, fail
from ftp.types import Example, Message


def check_curator(curator: Curator) -> None:
    """Check that every row removed, moved or changed is recorded in the ledger, and that results are repeatable."""
    cls = type(curator)
    orders = []
    for _ in range(2):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
            before, ledger = _corpus(Path(directory), curator.handles)
            after = attempt(cls, curator.curate, before, ledger)
            fault = _curated_wrongly(before, after, ledger) or _ledger_fault(before, after, ledger, Path(directory))
            if fault:
                fail(cls, f"curate {fault}.")
            orders.append([example.id for example in after.train])
    if orders[0] != orders[1]:
        fail(cls, "curate returns different rows the second time; draw with a seed that is an option.")


def _corpus(directory: Path, roles: Sequence[str]) -> tuple[Corpus, Ledger]:
    """Build a corpus with twelve training rows of each role, three validation rows and three eval rows.

    One training row occurs twice and one is also in the eval set.
    """
    ledger = Ledger()

    def part(name: str, role: str, numbers: Sequence[int]) -> list[Example]:
        examples = []
        for line, number in enumerate(numbers, 1):
            id = ledger.add(f"{name}-{role}.jsonl", line, "eval:heldout" if name == "heldout" else name, role)
            turns = (Message("user", f"Double {number}."), Message("assistant", f"{number} doubled is {2 * number}."))
            examples.append(Example(turns, id=id, source=f"{name}-{role}.jsonl", role=role))
        return examples

    def written(name: str, examples: Sequence[Example]) -> Examples:
        return write_examples(directory / f"{name}.arrow", examples)

    train = part("train", "domain", [*range(10, 20), 10, 50])
    for count, role in enumerate((role for role in roles if role != "domain"), 1):
        train += part("train", role, range(100 * count, 100 * count + 12))
    watched = written("validation", part("validation", "domain", range(40, 43)))
    heldout = written("heldout", part("heldout", "domain", range(50, 53)))
    return Corpus(written("train", train), watched, {"heldout": heldout}), ledger


def _curated_wrongly(before: Corpus, after: Any, ledger: Ledger) -> str | None:
    if not isinstance(after, Corpus):
        return f"returned {type(after).__name__}, not an ftp.Corpus"
    if {name: list(rows) for name, rows in after.evals.items()} != {n: list(rows) for n, rows in before.evals.items()}:
        return "changed the eval sets; they are what the result is measured on"
    known = {"train": {example.id: example for example in before.train}, "validation": {}}
    known["validation"] = {example.id: example for example in before.validation}
    for id, example in known["train"].items():
        if ledger.row(id)["split"] == "validation":
            known["validation"][id] = example
    for name in ("train", "validation"):
        rows = list(getattr(after, name))
        if len({row.id for row in rows}) < len(rows):
            return f"put a row into {name} twice"
        if any(row.id not in known[name] for row in rows):
            return f"put a row into {name} that was not there"
        if any(row != known[name][row.id] and ledger.row(row.id)["fate"] != "masked" for row in rows):
            return f"changed a row of {name} without recording it: ledger.mask(id, by=…, reason=…)"
    return None


def _ledger_fault(before: Corpus, after: Corpus, ledger: Ledger, directory: Path) -> str | None:
    import pyarrow.parquet

    ledger.write(directory / "ledger.parquet")
    entries = {entry["id"]: entry for entry in pyarrow.parquet.read_table(directory / "ledger.parquet").to_pylist()}
    kept = {name: {example.id for example in getattr(after, name)} for name in ("train", "validation")}
    for name in kept:
        for example in getattr(before, name):
            entry = entries[example.id]
            split, dropped = entry["split"], entry["fate"] == "dropped"
            if split != name and example.id in kept[name]:
                return f"recorded in the ledger that {example.id} is moved to {split} and left it in {name}"
            if example.id not in kept.get(split, ()) and not dropped:
                return f"removed {example.id} from {name} without recording it: ledger.drop(id, by=…, reason=…)"
            if example.id in kept[name] and dropped:
                return f"recorded in the ledger that {example.id} is dropped and left it in {name}"
            if dropped and not (entry["by"] and entry["reason"]):
                return f"recorded in the ledger that {example.id} is dropped, but not by whom and why"
    return None
