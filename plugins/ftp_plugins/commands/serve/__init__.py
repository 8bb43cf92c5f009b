"""`ftp serve`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST
from ftp.cli.echo import echo
from ftp.cli.options import TRACEBACK, plugin_options

ENGINES = ("vllm", "sglang", "llama.cpp", "ollama")


@click.command("serve")
@click.argument("runs", nargs=-1, required=True, metavar="[NAME=]RUN…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free port.")
@click.option("--base", is_flag=True, help="Serve the base model of runs trained in full too; it is loaded as well.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Requests that are answered at once.",
)
@click.option(
    "--queue", type=click.IntRange(min=0), default=64, show_default=True, help="Requests that may wait; others get 429."
)
@click.option("--api-key-env", metavar="NAME", help="Environment variable with the key that clients have to send.")
@click.option("--engine", type=click.Choice(ENGINES), help="With --print: the server to use in production.")
@click.option("--print", "print_", is_flag=True, help="Print how to serve RUN with --engine; start nothing.")
@plugin_options
@TRUST
@TRACEBACK
def command(
    runs: tuple[str, ...],
    host: str,
    port: int,
    base: bool,
    batch_size: int,
    queue: int,
    api_key_env: str | None,
    engine: str | None,
    print_: bool,
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
) -> None:
    """Serve the models of runs over HTTP, in the form of OpenAI's API.

    Each run is a model of the server, called by the name of its recipe or by NAME, and so is the base model. Runs with
    adapters on the same base model share it and answer in one batch. SIGTERM and Ctrl-C let the requests in progress
    end.

    With --engine and --print nothing is served: the commands and files for a server in an environment of its own are
    printed instead.
    """
    if bool(engine) != print_:
        raise click.UsageError("--engine and --print belong together: the engine runs in an environment of its own")
    if engine:
        from ftp_plugins.commands.serve.production import instructions

        echo(instructions(engine, runs, host, port))
        return
    from ftp_plugins.commands.serve.start import Settings, serve

    serve(runs, files, without, trust, base, Settings(host, port, batch_size, queue, api_key_env))
