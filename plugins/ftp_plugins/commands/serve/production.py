"""How to serve a run with another server."""
