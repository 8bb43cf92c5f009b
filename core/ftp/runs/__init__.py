"""The run directory: its files, its stages, its one writer and its events."""
