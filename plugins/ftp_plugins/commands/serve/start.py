"""The start and the end of `ftp serve`."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftp.cli.consent import ask_for_run
from ftp.cli.echo import echo
from ftp.cli.options import load_plugins
from ftp.cli.run import quiet_libraries
from ftp.cli.show import show
from ftp.errors import FtpError
from ftp.lm.answering import AnsweringModel
from ftp.stages.trained_model import OpenRun, TrainedModel, load_runs, open_run
from ftp_plugins.commands.serve.names import split_name, unique_names


@dataclass(frozen=True)
class Settings:
    """Where the server listens, and how much it takes."""

    host: str
    port: int
    batch_size: int
    queue: int
    api_key_env: str | None


def serve(
    runs: Sequence[str],
    files: tuple[Path, ...],
    without: tuple[str, ...],
    trust: bool,
    with_base: bool,
    settings: Settings,
) -> None:
    """Load the models of runs and serve them until a signal comes.

    Raises:
        FtpError: a package is missing, a run can't be served, the address is in use, or the key is not set.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise FtpError(f"ftp serve needs {error.name}: pip install 'ftp-finetune[serve]'") from None
    key = _key(settings)
    opened = _opened(runs, files, without, trust)
    quiet_libraries()
    from ftp_plugins.commands.serve.app import make_app
    from ftp_plugins.commands.serve.worker import Worker

    with _listen(settings) as listener:  # the address first: the models may take minutes to load
        with show() as progress:
            progress.stage("Loading the models")
            models = served_models(load_runs(opened, progress.note, settings.batch_size), with_base)
        worker = Worker(settings.batch_size + settings.queue)
        worker.start()
        app = make_app(models, worker, key, settings.host)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises again what it has handled
            signal.signal(number, lambda *_: None)
        address = f"[{settings.host}]" if ":" in settings.host else settings.host
        echo(f"Serving {', '.join(models)} at http://{address}:{listener.getsockname()[1]}/v1", err=True)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            worker.stop()


def _key(settings: Settings) -> str | None:
    name = settings.api_key_env
    if name is None:
        if settings.host not in ("127.0.0.1", "localhost", "::1"):
            echo(f"warning: anyone who reaches {settings.host} can use the server; --api-key-env sets a key", err=True)
        return None
    key = os.environ.get(name)
    if not key:
        raise FtpError(f"--api-key-env {name}: the environment variable {name} is not set")
    return key


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        what = error.strerror or error
        raise FtpError(f"can't listen on {settings.host}:{settings.port}: {what}; --port sets another port") from None
    return listener


def _opened(runs: Sequence[str], files: tuple[Path, ...], without: tuple[str, ...], trust: bool) -> list[OpenRun]:
    plugins = load_plugins(files, without)
    named = [split_name(run) for run in runs]
    opened = [open_run(path, plugins, name) for name, path in named]
    names = unique_names(
        [(name, run.recipe.name, run.directory.id) for (name, _), run in zip(named, opened, strict=True)]
    )
    for run in opened:
        ask_for_run(run.directory, run.needs, trust)
    return [OpenRun(name, run.recipe, run.directory) for name, run in zip(names, opened, strict=True)]


def served_models(trained: Sequence[TrainedModel], with_base: bool) -> dict[str, AnsweringModel]:
    """Return the models by name: those of the runs, and the base models that are in memory.

    A base model with the name of another model gets a number.

    Args:
        with_base: load the base models that aren't in memory, too.
    """
    models = {model.tuned.name: model.tuned for model in trained}
    seen = set[int]()
    for model in trained:
        in_memory = model.tuned.adapter is not None
        if id(model.tuned.decoder) in seen or not (in_memory or with_base):
            continue
        seen.add(id(model.tuned.decoder))
        name, number = model.base.name, 2
        while name in models:
            name, number = f"{model.base.name}-{number}", number + 1
        models[name] = model.base
    return models
