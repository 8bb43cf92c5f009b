"""The kinds of component."""

from __future__ import annotations

from ftp.components.component import Component
from ftp.components.engines import Engine
from ftp.components.evaluation import Evaluator, Reporter
from ftp.components.exports import Exporter
from ftp.components.launching import Launcher
from ftp.components.models import Adapter, Loader
from ftp.components.rows import Curator, Formatter
from ftp.components.training import Trainer, Watcher

KINDS: dict[str, type[Component]] = {
    "formatters": Formatter,
    "curators": Curator,
    "loaders": Loader,
    "adapters": Adapter,
    "trainers": Trainer,
    "watchers": Watcher,
    "engines": Engine,
    "evaluators": Evaluator,
    "reporters": Reporter,
    "exporters": Exporter,
    "launchers": Launcher,
}
"""The kinds of component, by hook name without the prefix `ftp_`."""


def unfinished(component: type[Component]) -> str | None:
    """Return which method a component class still has to define, or None when it is complete."""
    missing = sorted(getattr(component, "__abstractmethods__", ()))
    if missing:
        return f"does not define {', '.join(missing)}"
    if issubclass(component, Evaluator) and not component.scores_answers() and component.evaluate is Evaluator.evaluate:
        return "defines neither score nor evaluate"
    return None


def kind_of(component: Component) -> str:
    """Return the kind of a component, as named in KINDS."""
    return next(kind for kind, base in KINDS.items() if isinstance(component, base))
