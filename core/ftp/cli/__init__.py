"""The command line: one small module per command, importing nothing but click at the top."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from ftp.cli.echo import echo, message

COMMANDS = ("init", "check", "run", "resume", "report", "plugins", "schema")
GROUP = "ftp.commands"


class Commands(click.Group):
    """The core's commands, and those of the entry-point group `ftp.commands`, which are loaded only when named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_theirs())]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command = importlib.import_module(f"ftp.cli.{name}").command
            assert isinstance(command, click.Command)
            return command
        entry = _theirs().get(name)
        if entry is None:
            return None
        try:
            theirs = entry.load()
        except Exception as error:  # a third party's import may raise anything
            raise click.ClickException(f"the command '{name}' of {entry.value} can't be loaded: {error}") from None
        if not isinstance(theirs, click.Command):
            raise click.ClickException(f"{entry.value} is not a click command")
        return theirs

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, importlib.import_module(f"ftp.cli.{name}").command.get_short_help_str(90)) for name in COMMANDS]
        for name, entry in sorted(_theirs().items()):
            dist = entry.dist.name if entry.dist else entry.value
            # Our own are as light as the others; what a third party's command would import, nobody knows.
            about = entry.load().get_short_help_str(90) if dist == "ftp-finetune" else f"From {dist}."
            rows.append((name, about))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from ftp.errors import did_you_mean

            raise click.UsageError(f"no command '{args[0]}'{did_you_mean(args[0], self.list_commands(ctx))}") from None


def _theirs() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in COMMANDS}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ftp-finetune", prog_name="ftp")
def cli() -> None:
    """FTP, Fine-Tuning with Plugins: from a base model and a domain file to a specialist, with the evidence.

    Begin with `ftp init`, then `ftp run recipe.yaml`.
    """


def main() -> None:
    """Run the command line. Errors that the user can fix end with exit code 2 and no traceback."""
    import traceback

    from ftp.errors import FtpError

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    settings: dict[str, bool] = {}
    try:
        code = cli.main(prog_name="ftp", standalone_mode=False, obj=settings)
        sys.exit(code if isinstance(code, int) else 0)
    except FtpError as error:
        if settings.get("traceback"):
            traceback.print_exception(error)
        else:
            echo(message(str(error)), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        # A path that can't be read or written is the user's to mend, whichever command it was given to.
        echo(message(f"{os.fsdecode(error.filename)}: {error.strerror}"), err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if settings.get("traceback") or package in ("", "ftp", "ftp_plugins"):
            raise
        from ftp.packages import how_to_get

        click.echo(f"{package} is not installed: pip install '{how_to_get(package, 'ftp-finetune')}'", err=True)
        sys.exit(2)
    except click.ClickException as error:
        text = message(error.format_message())
        shown: click.ClickException = click.ClickException(text)
        if isinstance(error, click.UsageError):
            shown = click.UsageError(text, error.ctx)
        shown.show()
        sys.exit(error.exit_code)
    except click.Abort:
        echo("Aborted!", err=True)
        sys.exit(1)
