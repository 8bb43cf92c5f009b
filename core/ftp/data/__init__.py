"""Toolkit for rows: from data files to examples on disk, with a record of what became of each row.

- `files`: read data files row by row, each row with its line or with what is wrong there.
- `readers`: one module for each family of formats.
- `examples`: examples in an Arrow file that is mapped into memory; the corpus of a run.
- `ledger`: the fate of every row: kept, masked, truncated or dropped, by whom and why.
- `split`: rows that belong together, and validation rows drawn from the training rows.
- `held_out`: eval rows drawn from the training rows, the same ones again when rows are added.
- `slices`: parts of a split, such as `train[:1%]`.
- `near_duplicates`: which texts are alike, by the sets of their word n-grams.
- `tables`: Parquet files of a run read back, checked before they are believed.
- `words`: the words of a text in any script.
- `shingles`: texts as hashed word n-grams.

docs/toolkits.md has examples.
"""
