"""The ledger: a record of the fate of every row, and of the findings on it."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ftp.data.tables import batches, open_parquet, reading
from ftp.errors import DataError
from ftp.files import new_file

LOST = "lost_tokens"
HELD_OUT = "held out"
"""Fate of the rows that were moved from training into an eval set."""


class Ledger:
    """The fate of every input row (kept, held out, masked, split, truncated or dropped, by which component and why).

    About 30 bytes a row: words that many rows share are kept once, and a row's id is its source and line.
    """

    COLUMNS = (
        "id",
        "source",
        "line",
        "split",
        "role",
        "fate",
        "by",
        "reason",
        "tokens",
        "trained_tokens",
        "lost_tokens",
    )
    FINDINGS = ("id", "by", "what", "other", "score", "detail")

    def __init__(self) -> None:
        self._words: dict[str, int] = {}
        self._spelt: list[str] = []
        self._fates: dict[tuple[str, str, str], int] = {}
        self._rows: dict[str, list[array[int]]] = {}
        """For each source its parts, each with the row of its first line, then its lines in ascending order."""
        self._source, self._line = array("H"), array("q")
        self._split, self._role, self._fate = array("H"), array("H"), array("I")
        self._tokens, self._trained, self._lost = array("i"), array("i"), array("i")
        self._findings: list[tuple[str, str, str, str, float | None, str]] = []
        self.steps: list[dict[str, Any]] = []
        """The rows after each step of the data stage; see `step`."""
        self._fate_code(("kept", "", ""))

    def add(self, source: str, line: int, split: str, role: str) -> str:
        """Enter a row and return its id. Rows of a part of a source come in succession, in rising order of line.

        Args:
            split: `train`, `validation` or `eval:NAME`.

        Raises:
            DataError: the row is there already.
        """
        parts = self._rows.setdefault(source, [])
        last = parts[-1] if parts else None
        goes_on = last is not None and line > last[-1] and last[0] + len(last) - 1 == len(self._line)
        if any(_place(part, line) is not None for part in (parts[:-1] if goes_on else parts)):
            raise DataError([f"{source}:{line}: this row is read twice; name each file once"])
        if not goes_on:
            parts.append(array("q", [len(self._line)]))
        parts[-1].append(line)
        self._source.append(self._code(source))
        self._line.append(line)
        self._split.append(self._code(split))
        self._role.append(self._code(role))
        self._fate.append(0)
        self._tokens.append(-1)
        self._trained.append(-1)
        self._lost.append(-1)
        return f"{source}:{line}"

    def _code(self, word: str) -> int:
        code = self._words.setdefault(word, len(self._spelt))
        if code == len(self._spelt):
            self._spelt.append(word)
        return code

    def _fate_code(self, fate: tuple[str, str, str]) -> int:
        return self._fates.setdefault(fate, len(self._fates))

    def _row(self, id: str) -> int:
        source, _, line = id.rpartition(":")
        for part in self._rows.get(source, ()) if line.isdigit() else ():
            if (row := _place(part, int(line))) is not None:
                return row
        raise KeyError(id)

    def drop(self, id: str, by: str, reason: str) -> None:
        """Drop a row. `by` is the component's name; `reason` is a short phrase, the same for similar rows."""
        self._set(id, "dropped", by, reason)

    def truncate(self, id: str, by: str, reason: str) -> None:
        """Record that only a part of a row is used."""
        self._set(id, "truncated", by, reason)

    def split_up(self, id: str, by: str, reason: str) -> None:
        """Note that a row is used in several parts."""
        self._set(id, "split", by, reason)

    def hold_out(self, id: str, split: str, by: str) -> None:
        """Move a row from training into the eval set `split` (`eval:NAME`)."""
        self._set(id, HELD_OUT, by, f"{HELD_OUT} of the training rows")
        self.move(id, split)

    def mask(self, id: str, by: str, reason: str) -> None:
        """Record that a row is used with a part of its text replaced."""
        self._set(id, "masked", by, reason)
        self.find(id, by, "masked", detail=reason)

    def _set(self, id: str, fate: str, by: str, reason: str) -> None:
        row = self._row(id)
        before = list(self._fates)[self._fate[row]]
        if before[0] == "dropped":
            raise ValueError(f"{id} was dropped already, by {before[1]}: {before[2]}")
        self._fate[row] = self._fate_code((fate, by, reason))

    def find(self, id: str, by: str, what: str, other: str = "", score: float | None = None, detail: str = "") -> None:
        """Record a finding on a row; its fate stays the same.

        Args:
            what: a word or two, the same for similar findings: `near duplicate`, `leak`.
            other: the id of the other row involved.
            score: how strong the finding is, 0 to 1.
            detail: the evidence, for people.
        """
        self._findings.append((id, by, what, other, score, detail))

    def move(self, id: str, split: str) -> None:
        """Move a row to another split."""
        self._split[self._row(id)] = self._code(split)

    def count_tokens(self, id: str, tokens: int, trained: int, lost: int = 0) -> None:
        """Record how many tokens of a row are used, how many of them are trained on, and how many were cut off."""
        row = self._row(id)
        self._tokens[row], self._trained[row], self._lost[row] = tokens, trained, lost

    def kept(self, split: str) -> set[str]:
        """Return the ids of the rows of a split that were not dropped."""
        dropped = self._dropped()
        wanted = self._words.get(split, -1)
        return {
            f"{self._spelt[source]}:{line}"
            for source, line, of, fate in zip(self._source, self._line, self._split, self._fate, strict=True)
            if of == wanted and fate not in dropped
        }

    def count_kept(self, split: str) -> int:
        """Count the rows of a split that were not dropped."""
        dropped = self._dropped()
        wanted = self._words.get(split, -1)
        return sum(of == wanted and fate not in dropped for of, fate in zip(self._split, self._fate, strict=True))

    def _dropped(self) -> set[int]:
        return {code for fate, code in self._fates.items() if fate[0] == "dropped"}

    def step(self, by: str) -> None:
        """Record how many rows are where after a step; the parts always add up to the rows read."""
        counts = {"train": 0, "validation": 0, "evals": 0, "dropped": 0}
        for total in self.totals():
            part = "dropped" if total["fate"] == "dropped" else total["split"].partition(":")[0]
            counts["evals" if part == "eval" else part] += total["rows"]
        self.steps.append({"after": by, "read": len(self), **counts})

    def __len__(self) -> int:
        return len(self._line)

    def sources(self) -> list[str]:
        """Return the sources of the rows, in the order of reading."""
        return list(self._rows)

    def row(self, id: str) -> dict[str, Any]:
        """Return everything about one row: a value for each of COLUMNS.

        Raises:
            KeyError: there is no such row.
        """
        at = self._row(id)
        source, split, role = (self._spelt[codes[at]] for codes in (self._source, self._split, self._role))
        counts = [count if count >= 0 else None for count in (self._tokens[at], self._trained[at], self._lost[at])]
        values = (id, source, self._line[at], split, role, *list(self._fates)[self._fate[at]], *counts)
        return dict(zip(self.COLUMNS, values, strict=True))

    def findings(self, id: str | None = None) -> list[dict[str, Any]]:
        """Return the findings in order; with `id`, only those that involve that row."""
        return [
            dict(zip(self.FINDINGS, finding, strict=True))
            for finding in self._findings
            if id is None or id in (finding[0], finding[3])
        ]

    def totals(self) -> list[dict[str, Any]]:
        """Count rows and tokens by split, role, fate, component and reason. The rows add up to the rows read."""
        groups: dict[tuple[int, int, int], list[int]] = {}
        columns = (self._split, self._role, self._fate, self._tokens, self._trained, self._lost)
        for split, role, fate, tokens, trained, lost in zip(*columns, strict=True):
            group = groups.setdefault((split, role, fate), [0, 0, 0, 0])
            group[0] += 1
            if tokens >= 0:
                group[1] += tokens
                group[2] += trained
                group[3] += lost
        fates = list(self._fates)
        names = ("split", "role", "fate", "by", "reason")
        rows = [
            ((self._spelt[split], self._spelt[role], *fates[fate]), counts)
            for (split, role, fate), counts in groups.items()
        ]
        return [
            dict(zip((*names, "rows", "tokens", "trained_tokens", "lost_tokens"), (*key, *counts), strict=True))
            for key, counts in sorted(rows)
        ]

    def table(self) -> Any:
        """Return the ledger as a `pyarrow.Table` of COLUMNS."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def spelt(codes: array[int], words: list[str]) -> Any:
            return pa.array(words, pa.string()).take(pa.array(codes, pa.int32()))

        def counts(numbers: array[int]) -> Any:
            column = pa.array(numbers, pa.int32())
            return pc.if_else(pc.less(column, 0), pa.scalar(None, pa.int32()), column)

        lines = pa.array(self._line, pa.int64())
        source = spelt(self._source, self._spelt)
        by_fate = [spelt(self._fate, [fate[part] for fate in self._fates]) for part in range(3)]
        ids = pc.binary_join_element_wise(source, lines.cast(pa.string()), ":")
        columns = [
            *(ids, source, lines, spelt(self._split, self._spelt), spelt(self._role, self._spelt)),
            *(*by_fate, counts(self._tokens), counts(self._trained), counts(self._lost)),
        ]
        return pa.table(columns, names=list(self.COLUMNS)).replace_schema_metadata({"steps": json.dumps(self.steps)})

    def write(self, file: Path) -> None:
        """Write the ledger as Parquet, whole or not at all, and the findings beside it as FILE-findings.parquet."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = list(zip(*self._findings, strict=True)) or [()] * len(self.FINDINGS)
        types = [pa.string()] * 4 + [pa.float64(), pa.string()]
        arrays = [pa.array(list(column), of) for column, of in zip(columns, types, strict=True)]
        for place, table in (
            (_findings_file(file), pa.table(arrays, names=list(self.FINDINGS))),
            (file, self.table()),
        ):
            with new_file(place) as aside:
                pq.write_table(table, aside)

    @classmethod
    def read(cls, file: Path) -> Ledger:
        """Read what `write` wrote.

        Raises:
            DataError: a file of the two is missing or damaged.
        """
        ledger, findings = cls(), _findings_file(file)
        with reading(file):
            parquet = open_parquet(file, {name: of for name, of in _ROWS.items() if name != LOST})
            # Ledgers of 0.1 have no lost tokens.
            known = {name: of for name, of in _ROWS.items() if name != LOST or name in parquet.schema_arrow.names}
            for columns in batches(parquet, known):
                rows = zip(*columns.values(), strict=True)
                for at, (source, line, split, role, fate, by, reason, *counts) in enumerate(rows, len(ledger)):
                    ledger.add(source, line, split, role)
                    ledger._fate[at] = ledger._fate_code((fate, by, reason))
                    if counts[0] is not None:
                        tokens, trained, *lost = counts
                        ledger._tokens[at], ledger._trained[at] = tokens, trained
                        ledger._lost[at] = lost[0] if lost else 0
            steps = json.loads((parquet.schema_arrow.metadata or {}).get(b"steps", b"[]"))
            ledger.steps = TypeAdapter(list[dict[str, Any]]).validate_python(steps)
        with reading(findings):
            for columns in batches(open_parquet(findings, _FOUND), _FOUND):
                ledger._findings += zip(*columns.values(), strict=True)
        return ledger


def _place(part: array[int], line: int) -> int | None:
    """Return the row of a line in a part of a source, or None."""
    at = bisect_left(part, line, lo=1)
    return part[0] + at - 1 if at < len(part) and part[at] == line else None


def fates_in_words(ledger: Ledger) -> list[str]:
    """Say what became of the rows that are not used as they were read, a line for each component and kind of fate."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for total in ledger.totals():
        if total["fate"] != "kept":
            groups.setdefault((total["by"], total["fate"], total["split"]), []).append(total)
    lines = []
    for (by, fate, split), totals in groups.items():
        rows, lost = (sum(total[key] for total in totals) for key in ("rows", "lost_tokens"))
        many = f"{rows:,} row{'s' if rows > 1 else ''}"
        if fate == HELD_OUT:
            lines.append(f"{by}: {many} {totals[0]['reason']}")
            continue
        first = max(totals, key=lambda total: total["rows"])
        more = f" and {len(totals) - 1} more reasons" if len(totals) > 1 else ""
        tokens = f", {lost:,} tokens lost" if lost else ""
        lines.append(f"{by}: {many} of {split} {fate}{tokens} ({first['reason']}{more})")
    return lines


_ROWS = {
    **dict.fromkeys(Ledger.COLUMNS[1:], "string"),
    "line": "int64",
    "tokens": "int32?",
    "trained_tokens": "int32?",
    LOST: "int32?",
}
_FOUND = dict.fromkeys(Ledger.FINDINGS, "string") | {"score": "double?"}


def _findings_file(file: Path) -> Path:
    return file.with_name(f"{file.stem}-findings.parquet")
