"""Text on the terminal: what it says, and nothing that the terminal would act on."""

from __future__ import annotations

import click

MOST_OF_A_LINE = 1000
MOST_LINES = 100


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line with control characters as `\\u001b`: names and replies of others end up in our lines."""
    from ftp.files import without_controls

    click.echo(without_controls(str(text)), err=err)


def message(text: str) -> str:
    """Return an error's text as it is printed: control characters escaped as by `echo`, endless lines and lists cut."""
    from ftp.files import first_few, without_controls

    half = MOST_OF_A_LINE // 2
    lines = without_controls(text).split("\n")
    lines = [line if len(line) <= MOST_OF_A_LINE else f"{line[:half]} … {line[-half:]}" for line in lines]
    return "\n".join(first_few(lines, MOST_LINES, "more lines"))
