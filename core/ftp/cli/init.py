"""`ftp init`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.echo import echo

TEMPLATES = Path(__file__).parents[1] / "templates"


@click.command("init")
@click.argument("directory", type=click.Path(path_type=Path), default=Path())
@click.option(
    "-t",
    "--template",
    type=click.Choice(sorted(file.stem for file in TEMPLATES.glob("*.yaml"))),
    default="quickstart",
    show_default=True,
    help="Which recipe to write.",
)
def command(directory: Path, template: str) -> None:
    """Write a recipe that runs, and its data, into DIRECTORY.

    quickstart learns to review contract clauses on a laptop's CPU; the others are starting points for your own.
    """
    import json

    from ftp import plugins, recipe
    from ftp.errors import FtpError

    written = {"recipe.yaml": (TEMPLATES / f"{template}.yaml").read_text("utf-8")}
    for name in ("train.jsonl", "heldout.jsonl", "replay.jsonl", "README.md"):
        written[f"contracts/{name}"] = (TEMPLATES / "contracts" / name).read_text("utf-8")
    there = [name for name in written if (directory / name).exists()]
    if there:
        raise FtpError(f"{directory}: {', '.join(there)} already exists; name another directory, or remove it")
    schema = json.dumps(recipe.json_schema(plugins.load()), indent=1, ensure_ascii=False)
    written["recipe.schema.json"] = schema + "\n"
    for name, text in written.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
        echo(directory / name)
    echo(f"Now: ftp run {directory / 'recipe.yaml'}")
