"""Trackio."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from ftp_plugins.watchers.tracking import Tracker


class Trackio(Tracker):
    """Logs losses, rates, scores and watchers' answers to Trackio. Watchers' answers are alerts.

    Without a Space they go into the run's own `tracking/trackio`, or to TRACKIO_DIR: one directory for all runs
    lets `trackio show` compare them. Repeated steps appear twice.
    """

    requires: ClassVar[tuple[str, ...]] = ("trackio",)

    project: str | None = None
    """The project. Default: the run's name."""
    space: str | None = None
    """A Hugging Face Space to log to. Default: this machine only."""

    _run: Any = PrivateAttr(default=None)
    """The Trackio run, while it is open."""

    def needs_consent(self) -> Sequence[str]:
        return [f"send losses, scores and options to the Hugging Face Space {self.space}"] if self.space else []

    def open(self, name: str, id: str, directory: Path) -> None:
        place = os.environ.get("TRACKIO_DIR")
        os.environ["TRACKIO_DIR"] = place or str(directory)  # read once, when the library is imported
        import trackio

        if place is None:
            del os.environ["TRACKIO_DIR"]
        if self.space is None and str(trackio.TRACKIO_DIR) != str(Path(place or directory).expanduser()):
            raise RuntimeError(f"this process logs to {trackio.TRACKIO_DIR} already; set TRACKIO_DIR to keep it there")
        self._run = trackio.init(self.project or name, name=id, space_id=self.space, resume="allow", embed=False)

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(values)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def say(self, text: str, step: int) -> None:
        self._run.alert(f"Step {step}", text, step=step)

    def close(self) -> None:
        import trackio

        self._run = None
        trackio.finish()
