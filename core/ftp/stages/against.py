"""Contestants: other models answer the eval sets, and the tuned model is compared with each of them."""

from __future__ import annotations

from collections.abc import Mapping

from ftp.components import Engine, Loader
from ftp.data.examples import Examples
from ftp.results import contestant
from ftp.stages.evaluate import Evaluating
from ftp.stages.load_model import give_memory_back, load_base_model


def ask_contestants(
    evaluating: Evaluating, against: Mapping[str, Loader | Engine], evals: Mapping[str, Examples]
) -> None:
    """Have every contestant answer the recipe's eval sets, and measure the losses of those that are loaded.

    Raises:
        ModelError: one of them can't be loaded or asked.
    """
    own = {name: examples for name, examples in evals.items() if name not in evaluating.own_evals}
    for name, component in against.items():
        if isinstance(component, Engine):
            evaluating.ask_engine(contestant(name), component, own)
            continue
        evaluating.stage(f"Loading {name}", None)
        loaded = load_base_model(component, None, evaluating.note)
        evaluating.ask_model(contestant(name), loaded, None, own)
        del loaded
        give_memory_back()
