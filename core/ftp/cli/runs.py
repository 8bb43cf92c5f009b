"""`ftp runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ftp.cli.options import JSON, RUNS


@click.command("runs")
@RUNS
@JSON
def command(root: Path, as_json: bool) -> None:
    """List the runs, newest first, with how far they came and what they scored."""
    import json
    import sys

    from rich.console import Console
    from rich.table import Table

    from ftp.rundir import runs_below

    records: list[dict[str, Any]] = []
    for run in reversed(runs_below(root)):
        stages = run.stages()
        scores = {
            f"{evaluation['evals']}: {evaluation['evaluator']} {evaluation['metrics'][0]['name']}": {
                "base": evaluation["metrics"][0]["base"],
                "tuned": evaluation["metrics"][0]["tuned"],
            }
            for evaluation in run.read_json("evaluation.json") or ()
        }
        state = "finished" if "report" in stages else f"after {list(stages)[-1]}" if stages else "begun"
        records.append({"name": run.name, "id": run.id, "state": state, "scores": scores, "path": str(run.path)})
    if as_json:
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
        return
    if not records:
        click.echo(f"no run below {root}; `ftp run recipe.yaml` makes one")
        return
    table = Table("Name", "Run", "State", "Scores, base → tuned", box=None, pad_edge=False)
    for record in records:
        lines = "\n".join(
            f"{name} {_number(s['base'])} → {_number(s['tuned'])}" for name, s in record["scores"].items()
        )
        table.add_row(record["name"], record["id"], record["state"], lines)
    Console(width=None if sys.stdout.isatty() else 200).print(table, markup=False)


def _number(value: float | str) -> str:
    return f"{float(value):.3f}"
