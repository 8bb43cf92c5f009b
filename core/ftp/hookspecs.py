"""One hook per kind of component. A hook takes no argument and returns `{name: class}`."""

from __future__ import annotations

import pluggy

from ftp.components import (
    Adapter,
    Curator,
    Engine,
    Evaluator,
    Exporter,
    Formatter,
    Launcher,
    Loader,
    Reporter,
    Trainer,
    Watcher,
)

hookspec = pluggy.HookspecMarker("ftp")
hookimpl = pluggy.HookimplMarker("ftp")


@hookspec
def ftp_formatters() -> dict[str, type[Formatter]]:  # type: ignore[empty-body]
    """Offer formatters: each turns a row of a source into an Example."""


@hookspec
def ftp_curators() -> dict[str, type[Curator]]:  # type: ignore[empty-body]
    """Offer curators: each chooses, drops or reorders rows before training, and records it in the ledger."""


@hookspec
def ftp_loaders() -> dict[str, type[Loader]]:  # type: ignore[empty-body]
    """Offer loaders: each loads a base model and its tokenizer into memory."""


@hookspec
def ftp_adapters() -> dict[str, type[Adapter]]:  # type: ignore[empty-body]
    """Offer adapters: each decides which weights train."""


@hookspec
def ftp_trainers() -> dict[str, type[Trainer]]:  # type: ignore[empty-body]
    """Offer trainers: each trains the weights that the adapter left trainable."""


@hookspec
def ftp_watchers() -> dict[str, type[Watcher]]:  # type: ignore[empty-body]
    """Offer watchers: each sees the events of training and may stop it or roll it back."""


@hookspec
def ftp_engines() -> dict[str, type[Engine]]:  # type: ignore[empty-body]
    """Offer engines: each answers prompts, with a loaded model or with one of its own."""


@hookspec
def ftp_evaluators() -> dict[str, type[Evaluator]]:  # type: ignore[empty-body]
    """Offer evaluators: each compares the base and the tuned model on an eval set."""


@hookspec
def ftp_reporters() -> dict[str, type[Reporter]]:  # type: ignore[empty-body]
    """Offer reporters: each writes a report of a finished run."""


@hookspec
def ftp_exporters() -> dict[str, type[Exporter]]:  # type: ignore[empty-body]
    """Offer exporters: each writes the model of a run in a form that other programs load."""


@hookspec
def ftp_launchers() -> dict[str, type[Launcher]]:  # type: ignore[empty-body]
    """Offer launchers: each starts the processes of a run, on this machine or on others."""
