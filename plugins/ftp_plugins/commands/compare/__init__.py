"""`ftp compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON

if TYPE_CHECKING:
    from ftp_plugins.commands.compare.pairing import Comparison


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN…", type=click.Path(path_type=Path))
@JSON
def command(runs: tuple[Path, ...], as_json: bool) -> None:
    """Compare the models of finished runs with the first one, on the same examples.

    Runs whose eval sets differ are refused. Directories made by `ftp eval` are runs, too.
    """
    import json
    import sys

    from rich.table import Table

    from ftp.cli.console import Console
    from ftp.errors import RunError
    from ftp.files import finite
    from ftp.stats.verdicts import verdict_in_words
    from ftp_plugins.commands.compare.pairing import compare

    if len(runs) < 2:
        raise RunError("comparing needs two or more runs")
    found, notes = compare(runs)
    if as_json:
        records = [_record(comparison) for comparison in found]
        echo(json.dumps(finite({"comparisons": records, "notes": notes}), indent=2, ensure_ascii=False))
        return
    table = Table("Metric", "First", "Other", "Difference, 95% interval", "Verdict", box=None, pad_edge=False)
    for comparison in found:
        metric, difference = comparison.metric, comparison.metric.difference
        shown = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]" if difference else ""
        name = f"{comparison.evals}, {comparison.evaluator} {metric.name}"
        name += f"\n  {comparison.other}" if len(runs) > 2 else ""
        table.add_row(name, f"{metric.base:.3f}", f"{metric.tuned:.3f}", shown, verdict_in_words(metric))
    for at, run in enumerate(runs):
        echo(f"{'first' if at == 0 else 'other'}: {run}")
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)
    echo("The verdict is that of the other run; p-values are adjusted for the number of comparisons (Holm).")
    for note in notes:
        echo(note)


def _record(comparison: Comparison) -> dict[str, Any]:
    import dataclasses

    from ftp.stats.verdicts import verdict_in_words

    metric = comparison.metric
    return {
        "first": str(comparison.first),
        "other": str(comparison.other),
        "evals": comparison.evals,
        "evaluator": comparison.evaluator,
        "metric": metric.name,
        "first_score": metric.base,
        "other_score": metric.tuned,
        "higher_is_better": metric.higher_is_better,
        "difference": metric.difference and dataclasses.asdict(metric.difference),
        "verdict": verdict_in_words(metric),
        "p_value": metric.p_value,
        "p_adjusted": metric.p_adjusted,
        "test": metric.test,
        "effect": metric.effect,
        "effect_name": metric.effect_name,
        "detectable": metric.detectable,
    }
