"""Toolkit for rows: reading files, examples on disk, the ledger of every row, and splits."""
