"""The ledger: what became of every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftp.errors import DataError


class Ledger:
    """What became of every input row: kept, dropped or truncated, by whom and why, and how many tokens it has."""

    COLUMNS = ("id", "source", "line", "split", "role", "fate", "by", "reason", "tokens", "trained_tokens")

    def __init__(self) -> None:
        self._rows: dict[str, list[Any]] = {}

    def add(self, id: str, source: str, line: int, split: str, role: str) -> None:
        """Enter a row. `split` is `train`, `validation` or `eval:NAME`."""
        if id in self._rows:
            raise DataError([f"{id}: this row is read twice; name each file once"])
        self._rows[id] = [id, source, line, split, role, "kept", "", "", None, None]

    def drop(self, id: str, by: str, reason: str) -> None:
        """Take a row out. `by` is the component's name, `reason` a few words that are the same for like rows."""
        self._fate(id, "dropped", by, reason)

    def truncate(self, id: str, by: str, reason: str) -> None:
        """Note that a row is used in part."""
        self._fate(id, "truncated", by, reason)

    def _fate(self, id: str, fate: str, by: str, reason: str) -> None:
        row = self._rows[id]
        if row[5] == "dropped":
            raise ValueError(f"{id} was dropped already, by {row[6]}: {row[7]}")
        row[5:8] = [fate, by, reason]

    def move(self, id: str, split: str) -> None:
        """Put a row into another split."""
        self._rows[id][3] = split

    def count_tokens(self, id: str, tokens: int, trained: int) -> None:
        """Note how many tokens a row has and how many of them carry loss."""
        self._rows[id][8:10] = [tokens, trained]

    def kept(self, split: str) -> set[str]:
        """The ids of the rows of a split that were not dropped."""
        return {row[0] for row in self._rows.values() if row[3] == split and row[5] != "dropped"}

    def __len__(self) -> int:
        return len(self._rows)

    def totals(self) -> list[dict[str, Any]]:
        """Rows and tokens by split, role, fate, component and reason. The rows add up to the rows read."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for row in self._rows.values():
            group = groups.setdefault(tuple(row[3:8]), [0, 0, 0])
            group[0] += 1
            group[1] += row[8] or 0
            group[2] += row[9] or 0
        names = ("split", "role", "fate", "by", "reason")
        return [
            {**dict(zip(names, key, strict=True)), "rows": n, "tokens": tokens, "trained_tokens": trained}
            for key, (n, tokens, trained) in sorted(groups.items())
        ]

    def write(self, file: Path) -> None:
        """Write the ledger as Parquet, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = zip(*self._rows.values(), strict=True) if self._rows else ((),) * len(self.COLUMNS)
        types = [pa.string(), pa.string(), pa.int64(), *[pa.string()] * 5, pa.int64(), pa.int64()]
        arrays = [pa.array(list(column), type) for column, type in zip(columns, types, strict=True)]
        aside = file.with_name(f"{file.name}.part")
        pq.write_table(pa.table(arrays, names=list(self.COLUMNS)), aside)
        aside.replace(file)

    @classmethod
    def read(cls, file: Path) -> Ledger:
        import pyarrow.parquet as pq

        ledger = cls()
        for row in pq.read_table(file).to_pylist():
            ledger._rows[row["id"]] = [row[name] for name in cls.COLUMNS]
        return ledger
