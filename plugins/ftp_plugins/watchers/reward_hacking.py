"""Reward hacking: the reward rises, and what it was to measure doesn't."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field, PrivateAttr

import ftp

WINDOW = 10
"""Steps whose median is compared with that of as many at the beginning."""
CLEAR = 2.0
"""Standard errors by which two windows have to differ."""


class Change(NamedTuple):
    """A figure at the beginning of a training and now."""

    first: float
    now: float
    clear: bool
    """Whether they differ by more than the noise of their steps explains."""

    @property
    def rises(self) -> bool:
        return self.clear and self.now > self.first

    @property
    def falls(self) -> bool:
        return self.clear and self.now < self.first


class RewardHacking(ftp.Watcher):
    """Warns when a training with rewards finds a way to be rewarded that nobody meant.

    It names four signs, each with its figures: answers grow longer while the reward rises; the model is far from the
    one before training (KL); its answers lose their variety (entropy); and the reward rises while the score of a
    held-out evaluator, the trainer's `best_by`, falls. Gao et al. 2023, "Scaling Laws for Reward Model
    Overoptimization" (arXiv:2210.10760). On by default with a trainer that learns from rewards.
    """

    longer: float = Field(default=1.5, gt=1)
    """Factor by which answers have to grow."""
    max_kl: float = Field(default=0.5, gt=0)
    """KL from the model before training, in nats per token, that is far."""
    min_entropy: float = Field(default=0.2, ge=0, lt=1)
    """Share of the entropy at the beginning below which variety is lost."""
    action: Literal["report", "stop"] = "report"
    """Only report a sign, or end training at the first."""

    _steps: dict[str, list[tuple[int, float]]] = PrivateAttr(default_factory=dict)
    """Step and value of each figure."""
    _scores: list[tuple[int, float, str]] = PrivateAttr(default_factory=list)
    """Step, score and evaluator of each validation."""
    _reported: dict[str, int] = PrivateAttr(default_factory=dict)
    """The step at which each sign was reported."""

    @classmethod
    def by_default_with(cls, trainer: ftp.Trainer) -> bool:
        return trainer.answers_prompts

    def see(self, event: Mapping[str, Any]) -> ftp.Stop | ftp.Warn | None:
        if event["event"] in ("resume", "rollback"):
            self._forget_after(event["step"])
        elif event["event"] == "metric" and _is_number(event.get("reward")):
            for name in ("reward", "answer_tokens", "kl", "entropy"):
                if _is_number(event.get(name)):
                    self._steps.setdefault(name, []).append((event["step"], float(event[name])))
            return self._answer(event["step"], self._signs(event["step"]))
        elif event["event"] == "validation" and _is_number(event.get("score")) and "reward" in event:
            self._scores.append((event["step"], float(event["score"]), str(event.get("best_by"))))
            return self._answer(event["step"], self._held_out(event["step"]))
        return None

    def _answer(self, step: int, signs: Mapping[str, str]) -> ftp.Stop | ftp.Warn | None:
        new = {name: text for name, text in signs.items() if name not in self._reported}
        self._reported.update(dict.fromkeys(new, step))
        if not new:
            return None
        text = "; ".join(f"{name}: {evidence}" for name, evidence in new.items())
        return ftp.Stop(text) if self.action == "stop" else ftp.Warn(text)

    def _signs(self, step: int) -> dict[str, str]:
        """Return what is wrong after a step, by the name of the sign."""
        found = {}
        reward, length = self._change("reward"), self._change("answer_tokens")
        if reward and length and reward.rises and length.rises and length.now >= self.longer * length.first:
            found["length creep"] = (
                f"answers have {length.now:.1f} tokens at step {step}, {length.first:.1f} at the beginning, while the "
                f"reward rose from {reward.first:.3g} to {reward.now:.3g}; reward brevity, or look whether long "
                "answers are better"
            )
        kl = self._change("kl")
        if kl and kl.now > self.max_kl:
            found["KL"] = (
                f"{kl.now:.3g} nats per token from the model before training at step {step}, more than "
                f"{self.max_kl:g}; raise the trainer's `kl` or lower its learning rate"
            )
        entropy = self._change("entropy")
        if entropy and entropy.falls and entropy.now < self.min_entropy * entropy.first:
            found["entropy collapse"] = (
                f"{entropy.now:.3g} nats per token at step {step}, {entropy.first:.3g} at the beginning: the answers "
                "to a prompt become the same, and nothing more is learned from them"
            )
        return found

    def _held_out(self, step: int) -> dict[str, str]:
        """Return the sign that the reward of training and the held-out score go apart."""
        reward = self._change("reward")
        if reward is None or not reward.rises or len(self._scores) < 3:
            return {}
        best_step, best, name = max(self._scores[:-1], key=lambda entry: entry[1])
        last = [score for _, score, _ in self._scores[-2:]]
        if max(last) >= best or best_step >= self._scores[-2][0]:
            return {}
        return {
            "reward up, held-out score down": (
                f"the reward rose from {reward.first:.3g} to {reward.now:.3g} while {name} on validation rows fell "
                f"from {best:.3g} at step {best_step} to {last[-1]:.3g} at step {step}"
            )
        }

    def _change(self, name: str) -> Change | None:
        """Compare the last steps with the first ones; None while there are too few of them."""
        values = [value for _, value in self._steps.get(name, [])]
        if len(values) < 2 * WINDOW:
            return None
        first, now = values[:WINDOW], values[-WINDOW:]
        error = math.sqrt((statistics.variance(first) + statistics.variance(now)) / WINDOW)
        apart = abs(statistics.fmean(now) - statistics.fmean(first))
        return Change(statistics.median(first), statistics.median(now), apart > CLEAR * error)

    def _forget_after(self, step: int) -> None:
        for name, values in self._steps.items():
            self._steps[name] = [entry for entry in values if entry[0] <= step]
        self._scores[:] = [entry for entry in self._scores if entry[0] <= step]
        self._reported = {name: at for name, at in self._reported.items() if at <= step}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
