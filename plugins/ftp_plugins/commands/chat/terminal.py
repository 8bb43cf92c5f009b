"""The conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ftp.cli.console import Console
from ftp.cli.echo import echo
from ftp.errors import FtpError
from ftp.files import without_controls
from ftp_plugins.commands.chat.session import Session

MANY_LINES = '"""'


def talk(session: Session) -> None:
    """Talk until the user ends the conversation; without a terminal, answer what is piped in as one turn."""
    if not sys.stdin.isatty():
        text = sys.stdin.read().strip()
        if not text:
            raise FtpError("nothing to answer: standard input is empty")
        answer(session, text)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (line editing and a history for `input`)
    echo(f"{' and '.join(session.names)}; /help lists the commands, /quit ends.", err=True)
    if session.system:
        echo(without_controls(f"The system turn is: {session.system}"), err=True)
    while not session.ended:
        try:
            text = _next_turn()
        except KeyboardInterrupt:
            echo(err=True)  # an empty line in place of the one that was begun
            continue
        except EOFError:
            echo(err=True)
            return
        try:
            _obey(session, text)
        except FtpError as error:
            echo(without_controls(str(error)), err=True)


def _obey(session: Session, text: str) -> None:
    if not text.strip():
        return
    if text.startswith("/"):
        if said := session.do(text):
            echo(said, err=True)
        return
    answer(session, text)


def _next_turn() -> str:
    """Read a line, or the lines between two \"\"\"."""
    line = input("> ")
    if not line.startswith(MANY_LINES):
        return line
    lines = [line.removeprefix(MANY_LINES)]
    while not lines[-1].rstrip().endswith(MANY_LINES):
        lines.append(input(". "))
    return "\n".join(lines).rstrip().removesuffix(MANY_LINES).strip("\n")


def answer(session: Session, text: str) -> None:
    """Print the answers to a turn as they come; Ctrl-C ends them."""
    pieces = session.say(text)
    try:
        if len(session.names) == 1:
            _print_one(pieces)
        else:
            _print_both(session, pieces)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        echo(" … interrupted", err=True)
    finally:
        pieces.close()  # type: ignore[attr-defined]


def _print_one(pieces: Iterator[tuple[int, str]]) -> None:
    try:
        for _, piece in pieces:
            click.echo(without_controls(piece), nl=False)
            sys.stdout.flush()
    finally:
        click.echo()


def _print_both(session: Session, pieces: Iterator[tuple[int, str]]) -> None:
    """Print two answers in columns; without a terminal one after the other."""
    answers = ["" for _ in session.names]
    console = Console()
    if not console.is_terminal:
        for number, piece in pieces:
            answers[number] += piece
        for name, text in zip(session.names, answers, strict=True):
            echo(f"{name}: {text.strip()}\n")
        return
    with Live(console=console, transient=True, vertical_overflow="ellipsis", refresh_per_second=8) as live:
        for number, piece in pieces:
            answers[number] += piece
            live.update(_columns(session, answers))
    console.print(_columns(session, answers))


def _columns(session: Session, answers: list[str]) -> Table:
    table = Table(expand=True, highlight=False)
    for name in session.names:
        table.add_column(Text(name), ratio=1)
    table.add_row(*(Text(text.strip()) for text in answers))
    return table
