"""The report of `ftp data check`: totals, tokens, and examples of what was found and dropped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ftp.data.examples import decode
from ftp.data.ledger import HELD_OUT
from ftp.recipe.model import Recipe
from ftp.stages.prepare_data import notes_on_evals
from ftp.types import Example
from ftp_plugins.commands.data.preview import Preview

if TYPE_CHECKING:
    from ftp.cli.console import Console

EXAMPLES = 3
"""Examples shown for each finding and for each reason."""


def summary(preview: Preview, recipe: Recipe) -> dict[str, Any]:
    """Summarise a recipe's data as plain values."""
    import pyarrow.compute as pc

    rows = preview.ledger.table()
    dropped = []
    for total in preview.ledger.totals():
        if total["fate"] != "kept":
            same = pc.and_(pc.equal(rows["by"], total["by"]), pc.equal(rows["reason"], total["reason"]))
            of = rows.filter(pc.and_(same, pc.equal(rows["split"], total["split"])))
            what = f"{total['fate']}, {total['reason']} ({total['split']})"
            what = total["reason"] if total["fate"] == HELD_OUT else what
            examples = [_example(id) for id in of["id"].slice(0, EXAMPLES).to_pylist()]
            dropped.append({**total, "what": what, "examples": examples})
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in preview.ledger.findings():
        key = finding["by"], finding["what"]
        group = found.setdefault(key, {"by": key[0], "what": key[1], "findings": 0, "examples": []})
        group["findings"] += 1
        if len(group["examples"]) < EXAMPLES:
            group["examples"].append(_example(**{key: finding[key] for key in ("id", "other", "score", "detail")}))
    shown = [example for group in (*dropped, *found.values()) for example in group["examples"]]
    texts = texts_of(preview, {id for example in shown for id in (example["id"], example["other"]) if id})
    for example in shown:
        example["text"] = texts.get(example["id"], "")
        example["other_text"] = texts.get(example["other"], "")
    return {
        "name": recipe.name,
        "rows": len(preview.ledger),
        "steps": preview.ledger.steps,
        "totals": preview.ledger.totals(),
        "tokens": _tokens(rows),
        "not_kept": dropped,
        "found": list(found.values()),
        "notes": notes_on_evals(preview.ledger, recipe.data.curate),
    }


def _example(id: str, other: str = "", score: float | None = None, detail: str = "") -> dict[str, Any]:
    return {"id": id, "other": other, "score": score, "detail": detail}


def _tokens(rows: Any) -> dict[str, Any] | None:
    """Count the tokens of the training rows; None when nothing was tokenised."""
    import numpy as np
    import pyarrow.compute as pc

    used = rows.filter(pc.and_(pc.equal(rows["split"], "train"), pc.not_equal(rows["fate"], "dropped")))
    used = used.filter(pc.is_valid(used["tokens"]))
    if not used.num_rows:
        return None
    tokens, trained = (used[name].to_numpy() for name in ("tokens", "trained_tokens"))
    edges = [0, *(2**power for power in range(5, max(5, int(tokens.max() - 1).bit_length()) + 1))]
    counts, _ = np.histogram(tokens, bins=[edge + 1 if edge else 0 for edge in edges])
    bins = [
        {"from": low + 1, "to": high, "rows": int(count)}
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    while len(bins) > 1 and not bins[0]["rows"]:
        bins.pop(0)
    quantiles = dict(
        zip(("min", "median", "p95", "p99", "max"), np.quantile(tokens, (0, 0.5, 0.95, 0.99, 1)), strict=True)
    )
    return {
        "rows": int(used.num_rows),
        "tokens": int(tokens.sum()),
        "trained_tokens": int(trained.sum()),
        "trained_share": float(trained.sum() / tokens.sum()),
        **{name: int(value) for name, value in quantiles.items()},
        "histogram": bins,
    }


def texts_of(preview: Preview, ids: Iterable[str]) -> dict[str, str]:
    """Return the beginning of rows as they were read, kept or not, by id."""
    return {example.id: _short(example) for example in read_rows(preview, ids)}


def read_rows(preview: Preview, ids: Iterable[str]) -> Iterable[Example]:
    """Return rows as they were read, kept or not, by id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from ftp.data.examples import read_examples

    wanted = pa.array(sorted(set(ids)), pa.string())
    for name in ("rows", "watched", *(f"eval-{name}" for name in preview.corpus.evals)):
        file = preview.directory / f"{name}.arrow"
        if file.is_file():
            for table in read_examples(file).batches():
                yield from decode(table.filter(pc.is_in(table["id"], wanted)))


def _short(example: Example) -> str:
    text = example.text or " ⟶ ".join(message.content for message in example.messages if message.role != "system")
    text = " ".join(text.split())
    return text if len(text) <= 200 else f"{text[:199]}…"


def show(found: dict[str, Any]) -> None:
    """Print a summary: tables on a terminal, the same without colour elsewhere."""
    from ftp.cli.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _show_steps(console, found["steps"])
    _show_tokens(console, found["tokens"])
    _show_groups(console, "Held out, changed or dropped", found["not_kept"], "rows")
    _show_groups(console, "Found", found["found"], "findings")
    for note in found["notes"]:
        console.print(f"\n{note}", markup=False)
    console.print(
        "\n`ftp data why RECIPE ID` tells the fate of a row, `ftp data show RECIPE ID` what the trainer sees of it."
    )


def _show_steps(console: Console, steps: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(title="Rows", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("after")
    for column in ("train", "validation", "evals", "dropped", "= read"):
        table.add_column(column, justify="right")
    for step in steps:
        parts = [step[part] for part in ("train", "validation", "evals", "dropped")]
        table.add_row(step["after"], *(f"{part:,}" for part in parts), f"{sum(parts):,}")
    console.print(table)


def _show_tokens(console: Console, tokens: dict[str, Any] | None) -> None:
    if tokens is None:
        console.print("\nNo tokens are counted: this loader has no tokenizer without its weights.")
        return
    console.print(
        f"\nTokens: {tokens['tokens']:,} in {tokens['rows']:,} rows to train on, {tokens['trained_share']:.1%} of "
        f"them trained; a row has {tokens['min']} to {tokens['max']}, median {tokens['median']}, 95% at most "
        f"{tokens['p95']}"
    )
    most = max(bin["rows"] for bin in tokens["histogram"])
    for bin in tokens["histogram"]:
        bar = "█" * round(40 * bin["rows"] / most) or ("▏" if bin["rows"] else "")
        console.print(f"{bin['from']:>7}-{bin['to']:<6} {bin['rows']:>9,} {bar}")


def _show_groups(console: Console, title: str, groups: list[dict[str, Any]], count: str) -> None:
    """Print groups of rows with examples; `count` is the key of a group's size."""
    from rich.text import Text

    if groups:
        console.print(f"\n[bold]{title}[/bold]")
    for group in groups:
        console.print(Text(f"{group[count]:>9,}  {group['by']}: {group['what']}"))
        for example in group["examples"]:
            console.print(Text(f"           {example['id']}  {_evidence(example)}{example['text'][:100]}", style="dim"))


def _evidence(example: dict[str, Any]) -> str:
    score = "" if example["score"] is None else f"{example['score']:.2f} "
    other = f"~ {example['other']} " if example["other"] else ""
    detail = f"{example['detail']} " if example["detail"] else ""
    return f"{other}{score}{detail}"


def page(found: dict[str, Any]) -> str:
    """Render the summary as a self-contained page."""
    from markupsafe import Markup

    from ftp_plugins.reporters.charts import row_steps, token_histogram
    from ftp_plugins.reporters.html import render_page

    tokens = found["tokens"]
    return render_page(
        "data.html.j2",
        found=found,
        steps=Markup(row_steps(found["steps"])),
        histogram=Markup(token_histogram(tokens["histogram"])) if tokens else "",
    )
