"""What FTP relies on in every component, checked without the network: `assert_component_ok`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftp.testing.conformance.views import SUMS, answers_view

if TYPE_CHECKING:
    from ftp.components import Component


def assert_component_ok(cls: type[Component], /, *samples: Any, **options: Any) -> None:
    """Check everything that FTP relies on in a component, as far as possible without a real model.

    Args:
        cls: the class that the plugin offers.
        samples: for a formatter, rows that it must be able to use; for an evaluator, views (see `ftp_answers`) to use
            instead of a built-in one about sums; for an engine, examples to answer (without them it isn't asked).
        options: the options to make it with, as a recipe would give them.

    Raises:
        AssertionError: what is wrong, one sentence per line.
    """
    # Imported here: pytest loads this package wherever FTP is installed, whether or not a test needs it.
    from ftp.testing.conformance import (
        adapters,
        classes,
        curators,
        engines,
        evaluators,
        exporters,
        formatters,
        watchers,
    )
    from ftp.testing.conformance.common import fail, kind_of
    from ftp.testing.conformance.made import made

    kind = kind_of(cls)
    if samples and kind not in ("formatters", "evaluators", "engines"):
        raise TypeError(f"samples are for formatters, evaluators and engines, and {cls.__name__} is none of them")
    problems = list(classes.problems_of(cls))
    if problems:
        fail(cls, *problems)
    component: Any = made(cls, options)
    if kind == "formatters":
        formatters.check_formatter(component, samples)
    elif kind == "curators":
        curators.check_curator(component)
    elif kind == "engines":
        engines.check_engine(component, samples)
    elif kind == "evaluators":
        evaluators.check_evaluator(component, samples or [answers_view(SUMS)])
    elif kind == "adapters":
        adapters.check_adapter(component)
    elif kind == "exporters":
        exporters.check_exporter(component)
    elif kind == "watchers":
        watchers.check_watcher(component)


__all__ = ["answers_view", "assert_component_ok"]
