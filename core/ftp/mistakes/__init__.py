"""Mistakes in YAML as FTP words them: what pydantic finds, and where a key belongs that its block doesn't know."""
