"""Commands beyond those of the core."""
