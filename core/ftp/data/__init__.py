"""Toolkit for rows: from data files to examples on disk, with a record of what became of each row.

- `files`: read JSON Lines, JSON, CSV, TSV and Parquet row by row, each with its line or with what is wrong there.
- `examples`: examples in an Arrow file that is mapped into memory; the corpus of a run.
- `ledger`: the fate of every row: kept, masked, truncated or dropped, by whom and why.
- `split`: validation rows drawn from the training rows.

docs/toolkits.md has examples.
"""
