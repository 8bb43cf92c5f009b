"""The stages of a run, each assembled in one place and used by every command."""
