"""TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from ftp_plugins.watchers.tracking import Tracker


class TensorBoard(Tracker):
    """Writes losses, rates, scores and watchers' answers for TensorBoard, into the run's `tracking/tensorboard`.

    `tensorboard --logdir runs` shows all runs together. Repeated steps hide the earlier values.
    """

    requires: ClassVar[tuple[str, ...]] = ("torch", "tensorboard")

    flush_seconds: int = 30
    """Maximum number of seconds until figures are on disk."""

    _writer: Any = PrivateAttr(default=None)
    _directory: Path | None = PrivateAttr(default=None)

    def open(self, name: str, id: str, directory: Path) -> None:
        self._directory = directory
        self._write(None)

    def _write(self, purge_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._directory), purge_step=purge_step, flush_secs=self.flush_seconds)

    def rewind(self, step: int) -> None:
        self.close()
        self._write(step + 1)

    def settings(self, values: Mapping[str, Any]) -> None:
        rows = "".join(f"| {key} | {value} |\n" for key, value in values.items())
        self._writer.add_text("plan", f"| | |\n|---|---|\n{rows}")

    def log(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def say(self, text: str, step: int) -> None:
        self._writer.add_text("watcher", text, step)

    def close(self) -> None:
        self._writer.close()
