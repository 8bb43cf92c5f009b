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
@click.option("--placement", is_flag=True, help="The schema of placement files, for --on.")
def command(files: tuple[Path, ...], without: tuple[str, ...], output: Path | None, placement: bool) -> None:
    """Print the JSON schema of recipes for the installed plugins, which editors use for completion."""
    import json

    from ftp import recipe
    from ftp.placement import placement_schema

    schema_of = placement_schema if placement else recipe.json_schema
    text = json.dumps(schema_of(load_plugins(files, without)), indent=2, ensure_ascii=False)
    if output is None:
        echo(text)
    else:
        write_output(output, text + "\n")
        echo(output)
