"""Launchers: where the processes of a run run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftp.components.component import Component


@dataclass(frozen=True, slots=True)
class Launch:
    """The command that a launcher has each process of a run execute."""

    command: Sequence[str]
    """For the first start; it begins with this Python and `-m ftp`."""
    again: Sequence[str]
    """For a start after a failure: it resumes the run."""
    note: Callable[[str], None]
    """Show a sentence to the user."""
    name: str = "ftp"
    """Name of the run, for a job's name and files."""


class Launcher(Component):
    """Starts the processes of a run. It is chosen with `--on`, never in a recipe: where a run runs is not what it is.

    Each process needs the environment of torchrun (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`)
    and `FTP_COLLECTIVE_SECONDS`, the longest time that a process waits for the others in training. The process with
    rank 0 does the whole run and writes it; the others wait for the training and take part in it.
    """

    @abstractmethod
    def launch(self, job: Launch) -> int:
        """Start the processes, wait until they have ended, and return the exit code of the run.

        Raises:
            LaunchError: a process has failed, and starting it again is no use.
        """
