"""`ftp schema`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.echo import echo
from ftp.cli.options import for_writing, load_plugins, plugin_options, write_output


@click.command("schema")
@plugin_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    callback=for_writing,
    help="Write to this file instead of the terminal.",
)
def command(files: tuple[Path, ...], without: tuple[str, ...], output: Path | None) -> None:
    """Print the JSON schema of recipes for the installed plugins, which editors use for completion."""
    import json

    from ftp import recipe

    text = json.dumps(recipe.json_schema(load_plugins(files, without)), indent=2, ensure_ascii=False)
    if output is None:
        echo(text)
    else:
        write_output(output, text + "\n")
        echo(output)
