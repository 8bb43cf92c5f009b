"""What the experiment trackers share: which figures are tracked, and when."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

import ftp


class Tracker(ftp.Watcher):
    """Copies the figures of a run to an experiment tracker.

    A tracker that can't be opened ends the run before it begins; if it fails later, this is reported once and training
    continues without it.
    """

    _step: int = PrivateAttr(default=0)
    """The last step."""
    _opened: bool = PrivateAttr(default=False)
    _failure: str | None = PrivateAttr(default=None)
    """The error that broke the tracker and has yet to be reported."""

    @abstractmethod
    def open(self, name: str, id: str, directory: Path) -> None:
        """Open the tracker for a run, or reopen it for a resumed run. `directory` is for files and exists."""

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> None:
        """Record the settings of the run."""

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log figures."""

    @abstractmethod
    def say(self, text: str, step: int) -> None:
        """Log a watcher's answer."""

    @abstractmethod
    def close(self) -> None:
        """Send what is left, and close the tracker."""

    def rewind(self, step: int) -> None:
        """Handle that the steps after this one are repeated."""

    def replay(self, event: Mapping[str, Any]) -> None:
        """Log nothing, since an earlier process did; only the step is recorded."""
        self._step = event.get("step") or self._step

    def see(self, event: Mapping[str, Any]) -> ftp.Warn | None:
        if event["event"] == "start":
            directory = Path(event["directory"], "tracking", self.used_as)
            try:
                directory.mkdir(parents=True, exist_ok=True)
                self.open(event["name"], event["id"], directory)
            except Exception as error:
                raise ftp.FtpError(f"{self.used_as} can't be opened: {_words(error)}") from error
            self._opened = True
        elif self._opened:
            try:
                self._follow(event)
            except Exception as error:
                self._opened, self._failure = False, _words(error)
        if self._failure and event["event"] != "watcher":
            text, self._failure = self._failure, None
            return ftp.Warn(f"{self.used_as} has failed and gets no more figures: {text}")
        return None

    def _follow(self, event: Mapping[str, Any]) -> None:
        self._step = step = event.get("step") or self._step
        kind = event["event"]
        if kind == "plan":
            self.settings({key: value for key, value in event.items() if key != "event"})
        elif kind in ("resume", "rollback"):
            self.rewind(step)
        elif kind == "watcher":
            self.say(f"{event['by']} asks for {event['asks']}: {event['reason']}", step)
        elif kind == "end":
            self._opened = False
            self.close()
        elif figures := figures_of(event):
            self.log(figures, step)


def figures_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of an event by their names in a tracker, such as `train/loss` and `validation/loss/SOURCE`."""
    kind = event["event"]
    if kind == "metric":
        return _numbers("train", {key: value for key, value in event.items() if key not in ("event", "step")})
    if kind == "validation":
        losses = _numbers("validation", {key: event.get(key) for key in ("loss", "score")})
        return losses | _numbers("validation/loss", event.get("by_source") or {})
    if kind == "score":
        what = "/".join(_plain(event[key]) for key in ("evals", "evaluator", "metric"))
        return _numbers(what, {"base": event.get("base"), "tuned": event.get("tuned")})
    return {}


def _numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    return {f"{group}/{_plain(key)}": float(value) for key, value in values.items() if isinstance(value, int | float)}


def _plain(name: str) -> str:
    """Return a name that every tracker accepts: letters, digits and `_-. `."""
    return "".join(letter if letter.isalnum() or letter in "_-. " else "_" for letter in name)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
