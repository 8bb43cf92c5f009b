"""The reports of `ftp data show` and `ftp data why` on one row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftp.errors import DataError
from ftp.lm.rendering import encode, render
from ftp.recipe.model import Recipe
from ftp.stages.load_model import load_tokenizer
from ftp_plugins.commands.data.preview import Preview
from ftp_plugins.commands.data.preview_report import read_rows


def tokens_of(recipe: Recipe, preview: Preview, row: str) -> dict[str, Any]:
    """Return a row token by token, as training sees it.

    Args:
        row: its id, or its number among the training rows, from 1.

    Raises:
        DataError: there is no such row, or no tokenizer to read it with.
    """
    if row.isdecimal() and 1 <= int(row) <= len(preview.corpus.train):
        row = preview.corpus.train[int(row) - 1].id
    elif row.isdecimal():
        raise DataError([f"{row}: there are {len(preview.corpus.train)} rows to train on, numbered from 1"])
    entry = _entry(preview, row)
    left = preview.find(row)
    example = left[1] if left else next(iter(read_rows(preview, [row])))
    loaded = load_tokenizer(recipe.model)
    if loaded is None:
        raise DataError([f"'{recipe.model.used_as}' has no tokenizer without its weights, so no row can be shown"])
    # A trainer of somebody else's may have neither option; then its rows are shown by the usual rule.
    [tokens] = encode(loaded.tokenizer, [example], loaded.stops, getattr(recipe.train, "loss_on", "answers"))
    limit = getattr(recipe.train, "max_length", None)
    cut = limit if entry["fate"] == "truncated" and limit else len(tokens.input_ids)
    return {
        **entry,
        "length": len(tokens.input_ids),
        "trained_length": sum(tokens.trained[:cut]),
        "text": render(loaded.tokenizer, example.messages, False, example.tools) if example.messages else example.text,
        "tokens": [
            {
                "id": id,
                "text": _spelt(loaded.tokenizer, id),
                "state": "cut" if at >= cut else "trained" if on else "masked",
            }
            for at, (id, on) in enumerate(zip(tokens.input_ids, tokens.trained, strict=True))
        ],
    }


def _spelt(tokenizer: Any, id: int) -> str:
    text = str(tokenizer.decode([id], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    # A part of a character has no text of its own; its name in the vocabulary says which part it is.
    return str(tokenizer.convert_ids_to_tokens(id)) if not text or "\ufffd" in text else text


def _entry(preview: Preview, row: str) -> dict[str, Any]:
    try:
        return preview.ledger.row(row)
    except KeyError:
        sources = preview.ledger.sources()
        source = row.rpartition(":")[0]
        if source in sources:
            raise DataError([f"{row}: {source} has no row that begins at this line"]) from None
        files = f"{', '.join(sources[:10])}{' …' if len(sources) > 10 else ''}"
        raise DataError([f"{row}: no such row; a row is called FILE:LINE, and the files are {files}"]) from None


def fate(preview: Preview, row: str) -> dict[str, Any]:
    """Return everything that is known about a row: origin, content, findings and fate.

    Raises:
        DataError: there is no such row.
    """
    entry = _entry(preview, row)
    example = next(iter(read_rows(preview, [row])), None)
    read = None
    if example is not None:
        turns = [{"role": message.role, "content": message.content} for message in example.messages]
        read = {
            "kind": example.kind,
            "origin": example.origin,
            "group": example.group,
            "turns": turns,
            "text": example.text,
        }
    return {
        **entry,
        "read": read,
        "findings": preview.ledger.findings(row),
        "steps": [step["after"] for step in preview.ledger.steps],
    }


def show_fate(found: dict[str, Any]) -> None:
    """Print the fate of a row."""
    from rich.text import Text

    from ftp.cli.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for name, value in _fate_lines(found):
        console.print(Text.assemble((f"{name:12}", "bold"), value))


def _fate_lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fate of a row as lines, each with its subject."""
    yield "row", found["id"]
    yield "read from", f"{found['source']}, line {found['line']}, {found['role']}"
    if found["read"]:
        read = found["read"]
        yield "as", f"{read['kind']}{', group ' + read['group'] if read['group'] else ''}"
        for turn in read["turns"] or [{"role": "text", "content": read["text"]}]:
            text = " ".join(turn["content"].split())
            yield f"  {turn['role']}", text if len(text) <= 300 else f"{text[:299]}…"
    for finding in found["findings"]:
        mine = finding["id"] == found["id"]
        other = finding["other"] if mine else finding["id"]
        score = "" if finding["score"] is None else f", {finding['score']:.3f}"
        detail = f": {finding['detail']}" if finding["detail"] else ""
        what = finding["what"] if mine else f"is what another row is found with: {finding['what']}"
        yield "found", f"{finding['by']}: {what}{' with ' + other if other else ''}{score}{detail}"
    by = f" by {found['by']}: {found['reason']}" if found["by"] else ""
    yield "fate", f"{found['fate']}{by}; split {found['split']}"
    if found["tokens"] is not None:
        yield "tokens", f"{found['tokens']}, of them trained {found['trained_tokens']}"
    yield "steps", " → ".join(found["steps"])


STYLES = {"trained": "black on green3", "masked": "grey50", "cut": "red strike"}


def show(found: dict[str, Any]) -> None:
    """Print a row token by token: coloured on a terminal, in lines of one state elsewhere."""
    from rich.text import Text

    from ftp.cli.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(headline(found), style="bold"))
    if console.is_terminal:
        text = Text()
        for number, token in enumerate(found["tokens"]):
            style = STYLES[token["state"]] + (" underline" if number % 2 else "")
            text.append(visible(token["text"]), style=style)
            if "\n" in token["text"]:
                text.append("\n")
        console.print(text)
        console.print(Text.assemble("\n", *((f" {state} ", style) for state, style in STYLES.items())))
        return
    for state, tokens in runs(found["tokens"]):
        console.print(Text(f"{state:8}{len(tokens):>5}  {'|'.join(visible(token['text']) for token in tokens)}"))


def headline(found: dict[str, Any]) -> str:
    by = f" by {found['by']}: {found['reason']}" if found["by"] else ""
    return f"{found['id']}: {found['fate']}{by}; {found['length']} tokens, {found['trained_length']} trained"


def visible(text: str) -> str:
    """Make line breaks and tabs in a token's text visible."""
    return text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "␍")


def runs(tokens: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Group neighbouring tokens of the same state."""
    found: list[tuple[str, list[dict[str, Any]]]] = []
    for token in tokens:
        if not found or found[-1][0] != token["state"]:
            found.append((token["state"], []))
        found[-1][1].append(token)
    return found


def page(found: dict[str, Any]) -> str:
    """Render the row as a self-contained page."""
    from ftp_plugins.reporters.html import render_page

    for token in found["tokens"]:
        token["shown"], token["breaks"] = visible(token["text"]), "\n" in token["text"]
    return render_page("row.html.j2", found=found, headline=headline(found))
