"""The processes of a run that a launcher has started: whether their machines are alike, and their part in training."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftp.lm.training.torch_processes import Processes
    from ftp.plugins import Plugins
    from ftp.progress import Progress
    from ftp.recipe.model import Recipe

MOST_DIFFERENCES = 10
"""Lines of differences between two machines that are shown."""


@contextlib.contextmanager
def processes(recipe: Recipe) -> Iterator[Processes | None]:
    """Give the processes that a launcher has started this one with; None, and no import, where there is no launcher.

    Raises:
        ModelError: there are several, and the recipe's trainer knows of only one.
    """
    if "FTP_COLLECTIVE_SECONDS" not in os.environ:
        yield None
        return
    from ftp.errors import ModelError
    from ftp.guard import described
    from ftp.lm.training.torch_processes import joined

    with joined() as others:
        if others.count > 1 and not recipe.train.trains_together:
            raise ModelError(f"{described(recipe.train)} can't train on several processes: use one, or leave out --on")
        yield others


def check_machines(joined: Processes | None, recipe: Recipe, plugins: Plugins, file: Path, progress: Progress) -> None:
    """Refuse to begin where a machine has another recipe, data, model, packages or Python than the first process.

    Processes with the same host, directory and Python see the same files, and the first of them looks for all.

    Raises:
        LaunchError: in every process, with the machines that differ and in what.
    """
    if joined is None or joined.count == 1:
        return
    from ftp.errors import LaunchError
    from ftp.files import digest
    from ftp.provenance.machines import machine_differences, needs

    _note_gpus(joined, progress)
    places = joined.exchange("place", json.dumps([socket.gethostname(), str(Path.cwd()), sys.prefix, *sys.path]))
    looking = [rank for rank, place in enumerate(places) if places.index(place) == rank]
    if len(looking) == 1:
        return
    own = json.dumps(needs(recipe, plugins, file)) if joined.rank in looking else ""
    digests = joined.exchange("digest of needs", digest(own))
    if len({digests[rank] for rank in looking}) == 1:
        return
    all_needs = joined.exchange("needs", own)
    hosts = [json.loads(place)[0] for place in places]
    lines = []
    for rank in looking[1:]:
        found = list(machine_differences(json.loads(all_needs[0]), json.loads(all_needs[rank])))
        if found:
            lines += [f"process {rank} on {hosts[rank]} differs from process 0 on {hosts[0]}:"]
            lines += [f"  {what}" for what in found[:MOST_DIFFERENCES]]
            lines += [f"  and {len(found) - MOST_DIFFERENCES} more"] if len(found) > MOST_DIFFERENCES else []
    if lines:
        raise LaunchError("\n".join([*lines, "All machines of a run need the same; nothing has begun."]))


def _note_gpus(joined: Processes, progress: Progress) -> None:
    """Note it where the processes compute on different kinds of GPU: the run is right, and as fast as the slowest."""
    import torch

    kinds = Counter(joined.exchange("gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"))
    if len(kinds) > 1 and joined.first:
        found = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common())
        progress.note(f"The processes compute on different devices ({found}): the slowest sets the pace.")


def take_part(joined: Processes, recipe: Recipe, file: Path, progress: Progress) -> None:
    """Take part in the training of a run that the first process leads; return at once if it needs nobody.

    Raises:
        LaunchError: the run's directory isn't on this machine.
    """
    from ftp import pipeline
    from ftp.errors import LaunchError
    from ftp.runs.directory import RunDirectory

    place = joined.wait_for_training()
    if place is None:
        return
    if not (place / "data").is_dir():
        raise LaunchError(
            f"process {joined.rank} on {socket.gethostname()} doesn't see the run's directory {place}: put the runs "
            "(--runs) where all machines see them under the same path"
        )
    pipeline.join_training(recipe, file, RunDirectory(place), progress)
