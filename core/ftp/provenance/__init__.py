"""The provenance of a run: what it is made from, whether it may be resumed, and what it may do on this machine."""
