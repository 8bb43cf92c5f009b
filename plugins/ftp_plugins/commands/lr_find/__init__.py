"""`ftp lr-find`: a learning-rate range test on a recipe's own rows and model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ftp.cli.consent import TRUST, ask_for_recipe
from ftp.cli.echo import echo
from ftp.cli.options import (
    JSON,
    RECIPE,
    SET,
    FiniteRange,
    for_writing,
    load_plugins,
    load_recipe,
    plugin_options,
    write_output,
)

RANGE = (5e-5, 2e-4)
"""The range for an adapter without a range of its own."""
BELOW, ABOVE = 10, 500
"""How far the test goes beyond the usual rates by default; the loss ends it at the upper end."""
SHOWN = 15
"""Lines of the curve in the terminal."""


@click.command("lr-find")
@RECIPE
@SET
@plugin_options
@TRUST
@JSON
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    callback=for_writing,
    help="Also write a page with the curve to this file.",
)
@click.option("--steps", type=click.IntRange(min=10), default=60, show_default=True, help="Optimizer steps to take.")
@click.option("--low", type=FiniteRange(min=0, min_open=True), help="The first rate.")
@click.option("--high", type=FiniteRange(min=0, min_open=True), help="The last rate, unless the loss diverges.")
def command(
    recipe: Path,
    settings: tuple[str, ...],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
    as_json: bool,
    html: Path | None,
    steps: int,
    low: float | None,
    high: float | None,
) -> None:
    """Find a learning rate with a few real steps at a rising rate. The weights are discarded.

    The rate grows from --low to --high (default: from a tenth of the adapter's usual rates to 500 times them),
    and the test ends early when the loss diverges (Smith 2017, arXiv:1506.01186).
    """
    from ftp.cli.run import quiet_libraries
    from ftp.cli.show import show
    from ftp.errors import ModelError
    from ftp.files import finite
    from ftp.guard import call
    from ftp.lm.learning_rates import rate_in_words
    from ftp.stages.dry_run import dry_run, notes_only

    checked = load_recipe(recipe, load_plugins(files, without), settings)
    ask_for_recipe(checked, str(recipe), trust)
    adapter, pace = checked.adapter, call(tuple | None, checked.train.peak_rate)
    share, rates = checked.train.rate_share, adapter.learning_rates
    known = (rates[0] * share, rates[1] * share) if rates else None
    usual = known or RANGE
    first, last = low or usual[0] / BELOW, high or usual[1] * ABOVE
    if first >= last:
        raise click.UsageError(f"--low is {first:g} and --high {last:g}; the rate must rise")
    quiet_libraries()
    with show() as progress, dry_run(checked, recipe, progress.stage, notes_only(progress.event)) as job:
        progress.stage("Training with a rising rate")
        tested = call(Mapping | None, checked.train.range_test, job, first, last, steps)
    if tested is None:
        raise ModelError(f"the trainer '{checked.train.used_as}' has no range test")
    batch = pace[1] if pace else None
    found: dict[str, Any] = {
        "name": checked.name,
        **tested,
        "usual": known,
        "recipe_rate": pace[0] if pace else None,
        "batch": batch,
        "against_usual": "",
    }
    if batch and tested["suggestion"]:
        found["against_usual"] = rate_in_words(adapter, tested["suggestion"], batch, share)
    if html:
        from ftp_plugins.commands.lr_find.page import page

        write_output(html, page(found, headline(found)))
    echo(json.dumps(finite(found), indent=2) if as_json else "\n".join(lines(found)))
    if html and not as_json:
        echo(html)


def headline(found: dict[str, Any]) -> str:
    """Return the suggestion, or that there is none, with the reason."""
    from ftp.lm.learning_rates import rate_shown

    rate = found["suggestion"]
    return f"suggestion {rate_shown(rate)}: {found['reason']}" if rate else f"no suggestion: {found['reason']}"


def lines(found: dict[str, Any]) -> list[str]:
    """Return the curve in a few lines, the suggestion, and how it compares with the usual rates."""
    from ftp.lm.learning_rates import rate_shown

    rates, smoothed = found["rates"], found["smoothed"]
    told = [f"untouched model: loss {found['start']:.3f}"]
    for at in sorted({round(n * (len(rates) - 1) / (SHOWN - 1)) for n in range(SHOWN)}):
        told.append(f"rate {rate_shown(rates[at]):>7}   loss {smoothed[at]:.3f}")
    if found["diverged"]:
        told.append(f"the loss went up at {rate_shown(rates[-1])}, so the test ended after {len(rates)} steps")
    told.append(headline(found))
    if found["against_usual"]:
        told.append(found["against_usual"])
    if found["recipe_rate"]:
        told.append(f"the recipe says {rate_shown(found['recipe_rate'])}; the weights are unchanged")
    return told
