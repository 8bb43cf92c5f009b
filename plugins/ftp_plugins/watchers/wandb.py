"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import PrivateAttr

from ftp_plugins.watchers.tracking import Tracker


class WeightsAndBiases(Tracker):
    """Logs losses, rates, scores and watchers' answers to Weights & Biases. The key comes from WANDB_API_KEY.

    The W&B run has the same id as the run, and is resumed with it. Watchers' answers are alerts. W&B's own
    files are in the run's `tracking/wandb`; with `mode: offline` they are kept there for `wandb sync`.
    """

    requires: ClassVar[tuple[str, ...]] = ("wandb",)

    project: str | None = None
    """The project. Default: the run's name."""
    entity: str | None = None
    """The user or team. Default: the one that is logged in."""
    mode: Literal["online", "offline"] | None = None
    """Send figures, or keep them for later. Default: the value of WANDB_MODE, else online."""

    _run: Any = PrivateAttr(default=None)
    """The W&B run, while it is open."""

    def needs_consent(self) -> Sequence[str]:
        whose = f"{self.entity or 'your account'}'s project {self.project or 'named after the run'}"
        return [] if self.mode == "offline" else [f"send losses, scores and options to Weights & Biases, {whose}"]

    def open(self, name: str, id: str, directory: Path) -> None:
        import wandb

        project = self.project or name
        run = wandb.init(
            project=project, entity=self.entity, id=id, name=id, dir=directory, mode=self.mode, resume="allow"
        )
        # Steps that are done again would be refused if they were its own steps, which may only rise.
        run.define_metric("*", step_metric="step")
        self._run = run

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log({**figures, "step": step})

    def say(self, text: str, step: int) -> None:
        self._run.alert(title=f"Step {step}", text=text)

    def close(self) -> None:
        self._run.finish()
        self._run = None
