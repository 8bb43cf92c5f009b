"""The run directory: its files, its lock and its events, written and read back."""
