"""Rollouts: answers that the model in training has drawn, with their rewards and advantages."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import ftp
from ftp.errors import ModelError
from ftp.lm.rendering import prompt_ids
from ftp.lm.torch_generate import answer_of
from ftp.options import AnswerOptions
from ftp_plugins.trainers.grpo_options import GRPOOptions
from ftp_plugins.trainers.rewards import mean, rewarded
from ftp_plugins.trainers.torch_policy_loss import advantages


@dataclass(slots=True)
class Rollouts:
    """The answers to the prompts of a batch, those to one prompt beside one another."""

    ids: list[str]
    """Id of the example that each answers."""
    prompts: list[list[int]]
    """Token ids of each one's prompt."""
    answers: list[list[int]]
    """Token ids of each, with the token that ended it if there is one."""
    texts: list[str]
    stopped: list[bool]
    totals: list[float]
    """Reward of each; NaN where no reward has a score."""
    scores: list[dict[str, float]]
    """Scores of each by the names of the rewards."""
    reasons: list[dict[str, str]]
    advantages: list[float]
    taken: int = 0
    """Optimizer steps taken on them so far."""
    old: list[float] = field(default_factory=list)
    """Log-probability of each token of the answers when it was drawn; empty before the first step."""
    reference: list[float] = field(default_factory=list)
    """The same under the model before training; empty where it isn't computed."""

    def __len__(self) -> int:
        return len(self.answers)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each answer."""
        return [len(answer) for answer in self.answers]

    def lines(self, step: int) -> list[dict[str, Any]]:
        """Return a line of rollouts.jsonl for each."""
        return [
            {
                "event": "rollout",
                "step": step,
                "prompt": self.ids[at],
                "answer": self.texts[at],
                "tokens": len(self.answers[at]),
                "stopped": self.stopped[at],
                "reward": self.totals[at],
                "rewards": self.scores[at],
                "reasons": self.reasons[at],
                "advantage": self.advantages[at],
            }
            for at in range(len(self))
        ]

    def stretched(self, longest: int) -> Rollouts:
        """Return them with every answer as long as an answer can be, to rehearse the memory that this takes."""
        answers = [(answer * (longest // len(answer) + 1))[:longest] for answer in self.answers]
        return dataclasses.replace(self, answers=answers)

    def to_json(self) -> str:
        """Return them as JSON text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rollouts:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


def roll_out(
    options: GRPOOptions, job: ftp.TrainingJob, examples: Sequence[ftp.Example], stops: Sequence[int], seed: int
) -> Rollouts:
    """Have the engine answer prompts, and reward the answers.

    Raises:
        ModelError: the engine doesn't give tokens.
        ComponentError: a reward failed.
    """
    if job.engine is None:
        raise ModelError("there is no engine to sample answers with; name one under `answers:`")
    tokenizer, many = job.model.tokenizer, options.generations
    sampling = AnswerOptions(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        samples=many,
        batch_size=getattr(job.engine, "batch_size", AnswerOptions().batch_size),
        seed=seed,
    )
    drawn = [list(answer) for answer in job.engine.sample(examples, sampling)]
    if len(drawn) != many * len(examples) or not all(drawn):
        raise ModelError(
            f"the engine '{job.engine.used_as}' gave {len(drawn)} answers, or empty ones, to {len(examples)} prompts"
        )
    asked = [example for example in examples for _ in range(many)]
    read = [answer_of(tokenizer, answer, stops) for answer in drawn]
    found = rewarded(options.rewards, asked, [answer.text for answer in read])
    totals = torch.tensor([one.total for one in found]).view(-1, many)
    return Rollouts(
        ids=[example.id for example in asked],
        prompts=[ids for example in examples for ids in [prompt_ids(tokenizer, example)] * many],
        answers=drawn,
        texts=[answer.text for answer in read],
        stopped=[answer.stopped for answer in read],
        totals=[one.total for one in found],
        scores=[dict(one.scores) for one in found],
        reasons=[dict(one.reasons) for one in found],
        advantages=advantages(totals, options.advantage).flatten().tolist(),
    )


def figures_of(rollouts: Sequence[Rollouts], generations: int) -> dict[str, float]:
    """Return the means of a step's rollouts: rewards, their spread within a group, lengths, and the share cut."""
    totals = [total for batch in rollouts for total in batch.totals]
    groups = [totals[at : at + generations] for at in range(0, len(totals), generations)]
    spreads = [_spread(group) for group in groups]
    lengths = [length for batch in rollouts for length in batch.lengths]
    stopped = [one for batch in rollouts for one in batch.stopped]
    names = rollouts[0].scores[0]
    return {
        "reward": mean(totals),
        "reward_std": mean(spreads),
        "flat_groups": mean([float(spread == 0) for spread in spreads]),
        "answer_tokens": mean(lengths),
        "cut": 1 - mean([float(one) for one in stopped]),
        **{f"reward_{name}": mean([one[name] for batch in rollouts for one in batch.scores]) for name in names},
    }


def _spread(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    if len(known) < 2:
        return 0.0
    middle = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in known) / (len(known) - 1))
