"""`ftp chat`."""

from __future__ import annotations

from pathlib import Path

import click

from ftp.cli.consent import TRUST
from ftp.cli.options import TRACEBACK, FiniteRange, plugin_options


@click.command("chat")
@click.argument("model", required=False, metavar="[RUN | DIRECTORY | FILE.gguf]")
@click.option("--base", is_flag=True, help="Ask the base model too, and show both answers side by side.")
@click.option("--server", metavar="URL", help="Talk to a model of an OpenAI-compatible server, such as ftp serve.")
@click.option("--model", "served", metavar="NAME", help="With --server: the model. Default: the server's first.")
@click.option("--api-key-env", metavar="NAME", help="With --server: environment variable with the key.")
@click.option("--system", metavar="TEXT", help="The system turn. Default: that of all the run's eval prompts, if any.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer. Default: what the context holds.")
@click.option(
    "--temperature", type=FiniteRange(0, 2), default=0.0, show_default=True, help="0 for the likeliest tokens."
)
@click.option("--top-p", type=FiniteRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--seed", type=int, help="Seed of the draws, with a temperature.")
@plugin_options
@TRUST
@TRACEBACK
def command(
    model: str | None,
    base: bool,
    server: str | None,
    served: str | None,
    api_key_env: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    top_p: float,
    seed: int | None,
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
) -> None:
    """Talk to the model of a run, or to any model directory, GGUF file or server.

    Answers appear as they are generated; Ctrl-C ends one, Ctrl-D the conversation. /help lists the commands, such as
    /save, which adds a turn to a file of rows. Text that is piped in is one turn: `echo "…" | ftp chat RUN`.
    """
    from ftp.lm.sampling import Sampling
    from ftp_plugins.commands.chat.partners import Partner, open_local, open_server
    from ftp_plugins.commands.chat.session import Session
    from ftp_plugins.commands.chat.terminal import talk

    if (model is None) == (server is None):
        raise click.UsageError("name a run, a model directory or a GGUF file, or give --server")
    if server is None and (served or api_key_env):
        raise click.UsageError("--model and --api-key-env are for --server")
    if base and server is not None:
        raise click.UsageError("--base is for a run: a server doesn't say what its models were made from")
    sampling = Sampling(max_tokens, temperature, top_p, seed)
    partner: Partner
    if server is not None:
        partner = open_server(server, served, api_key_env, sampling)
    else:
        partner = open_local(Path(model or ""), base, files, without, trust, sampling)
    try:
        talk(Session(partner, partner.system if system is None else system))
    finally:
        partner.close()
