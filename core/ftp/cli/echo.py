"""Text on the terminal: what it says, and nothing that the terminal would act on."""

from __future__ import annotations

import click


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line with control characters as `\\u001b`: names and replies of others end up in our lines."""
    from ftp.files import without_controls

    click.echo(without_controls(str(text)), err=err)
