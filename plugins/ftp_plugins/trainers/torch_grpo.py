"""The loss of group-relative policy optimisation, as a part of the training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import ftp
from ftp.lm.prefixes import SHORTEST
from ftp.lm.torch_models import head_of
from ftp.lm.training.torch_checkpoints import step_of
from ftp.lm.training.torch_run import train
from ftp_plugins.speed.torch_batches import packed_batch, padded_batch
from ftp_plugins.speed.torch_head import CHUNK_BYTES
from ftp_plugins.speed.torch_path import FastPath
from ftp_plugins.trainers.grpo_options import GRPOOptions
from ftp_plugins.trainers.reward_validation import RewardValidation
from ftp_plugins.trainers.rewards import named
from ftp_plugins.trainers.torch_loop import LoopTrainer, ready_trainer
from ftp_plugins.trainers.torch_objective import Objective
from ftp_plugins.trainers.torch_policy_loss import clipped_tokens, divisor, kl_k3, token_losses, token_weights
from ftp_plugins.trainers.torch_rollouts import Rollouts, figures_of, roll_out

STATE = "rollouts.json"
"""File of a checkpoint with the answers on which further steps are taken."""


class PolicyObjective(Objective):
    """The clipped policy loss of answers that the model has drawn itself.

    Args:
        options: of the trainer.
        tokenizer: with the tokens that end an answer.
    """

    loss_unit = "policy loss"
    slow_path = "the model's own forward pass on padded batches"

    def __init__(self, options: GRPOOptions, job: ftp.TrainingJob, tokenizer: ftp.LoadedTokenizer) -> None:
        rows = options.rows_of(job.corpus.train, tokenizer, job.ledger)
        kept = options.rows_of(job.corpus.validation, tokenizer, job.ledger).table["row"].to_pylist()
        self.validation_rows = [job.corpus.validation[row] for row in kept[: options.dev_rows]]
        lengths = [options.generations * (length + options.max_new_tokens) for length in rows.lengths().tolist()]
        drawn = len(rows) * options.generations * options.max_new_tokens
        super().__init__(job, Dataset(rows.table.select(["row"])), rows, lengths, drawn, bool(self.validation_rows))
        rewards = [reward.recording_in(job.run) for reward in options.rewards]
        self.options = options.model_copy(update={"rewards": rewards})
        self.stops, self.repeats = tokenizer.stops, options.updates
        self.examples = job.corpus.train
        self.figures = (
            *("reward", "reward_std", "flat_groups", "answer_tokens", "cut", "entropy", "kl", "clipped"),
            *(f"reward_{name}" for name in named(options.rewards)),
        )
        self.trained = 0
        self.drawn = 0
        self.rehearses = False
        self.kept: dict[tuple[int, ...], Rollouts] = {}
        self.step: list[Rollouts] = []
        self.sums: dict[str, float] = {}
        self.reference: Reference | None = None

    def begin(self) -> None:
        """Copy the weights as the reference, where there is no adapter to switch off and a KL is asked for."""
        model = self.job.model.model
        if hasattr(model, "disable_adapter"):
            self.reference = Reference(model)
        elif self.options.kl:
            self.reference = Reference(model, {name: w.detach().clone() for name, w in _training(model)})

    def shared_tokens(self, path: FastPath, batch_size: int, seed: int) -> int:
        """Count the tokens of prompts that an epoch computes together for all answers to a prompt."""
        long_enough = [length for length in self.tokens.lengths().tolist() if length >= SHORTEST]
        return 0 if path.separately else sum(long_enough) * (self.options.generations - 1)

    # --- rollouts

    def collate(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the numbers of the prompts; `prepare` has them answered."""
        numbers = [row["row"] for row in rows]
        most = max(self.lengths) * len(rows)
        return {"rows": torch.tensor(numbers), "tokens": most}

    def prepare(self, batches: Sequence[dict[str, Any]], step: int, rehearsal: bool) -> None:
        """Have the prompts answered and the answers rewarded, unless this step goes on with those of the one before."""
        self.step, self.sums, self.rehearses = [], {}, rehearsal
        for batch in batches:
            rows = tuple(batch.pop("rows").tolist())
            rollouts = self.kept.pop(rows, None) or self._rolled_out(rows, step, rehearsal)
            batch["rollouts"] = rollouts
            batch["tokens"] = sum(map(len, rollouts.prompts)) + sum(rollouts.lengths)
            self.step.append(rollouts)
            rollouts.taken += 1
            if rollouts.taken < self.repeats and not rehearsal:
                self.kept[rows] = rollouts

    def _rolled_out(self, rows: Sequence[int], step: int, rehearsal: bool) -> Rollouts:
        seed = (self.job.seed * 1_000_003 + self.drawn) % 2**32
        rollouts = roll_out(self.options, self.job, [self.examples[row] for row in rows], self.stops, seed)
        if rehearsal:
            rollouts = rollouts.stretched(self.options.max_new_tokens)
        else:
            self.drawn += 1
            self.job.record("rollouts", rollouts.lines(step))
        if self.reference is not None:
            with self.reference.active(self.path), torch.no_grad():
                scored, _ = self.scored(self.job.model.model, rollouts)
                rollouts.reference = scored.tolist()
        return rollouts

    # --- loss

    def count(self, batch: Mapping[str, Any]) -> int:
        """Count what the loss is a mean over: tokens or answers."""
        return divisor(self._counted(batch["rollouts"]), self.options.loss)

    def _counted(self, rollouts: Rollouts) -> list[int]:
        """Return the tokens of each answer that count in the loss; a cut answer may have none."""
        pairs = zip(rollouts.lengths, rollouts.stopped, strict=True)
        return [length if stopped or not self.options.mask_cut else 0 for length, stopped in pairs]

    def loss(self, model: Any, batch: Mapping[str, Any], count: Any) -> torch.Tensor:
        """Return the share of a batch in the loss of its optimizer step."""
        rollouts, options = batch["rollouts"], self.options
        lengths = torch.tensor(rollouts.lengths)
        log_probs, entropy = self.scored(model, rollouts)
        device = log_probs.device
        if not rollouts.old:
            rollouts.old = log_probs.detach().tolist()
        old = torch.tensor(rollouts.old, device=device) if rollouts.taken > 1 else log_probs.detach()
        reference = torch.tensor(rollouts.reference, device=device) if rollouts.reference else None
        advantage = torch.tensor(rollouts.advantages).repeat_interleave(lengths).to(device)
        clip = options.clip, options.clip if options.clip_high is None else options.clip_high
        losses = token_losses(log_probs, old, advantage, clip, options.kl, reference)
        weights = token_weights(lengths, options.loss, options.max_new_tokens)
        counts = torch.tensor([float(tokens > 0) for tokens in self._counted(rollouts)]).repeat_interleave(lengths)
        self._sum("entropy", entropy)
        self._sum("clipped", clipped_tokens(log_probs.detach(), old, advantage, clip).float())
        if reference is not None:
            self._sum("kl", kl_k3(log_probs.detach(), reference))
        self.trained += 0 if self.rehearses else int(counts.sum())
        share: torch.Tensor = (losses * (weights * counts).to(device)).sum() / count
        return share

    def _sum(self, name: str, values: torch.Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def scored(self, model: Any, rollouts: Rollouts) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probability of each token of the answers at the sampling temperature, and the entropy there.

        Both are float32 [N] in nats, answer after answer; the first is differentiable.
        """
        pairs = list(zip(rollouts.prompts, rollouts.answers, strict=True))
        rows = [{"input_ids": p + a, "trained": [False] * len(p) + [True] * len(a)} for p, a in pairs]
        if self.path is not None:
            packed = packed_batch(rows, once=self.path.separately is None)
            batch = {name: _moved(value, model.device) for name, value in packed.items()}
            with self.path.attention():
                states, targets = self.path.states(batch), batch["targets"]
                return self._through_head(head_of(self.job.model.model), states, targets)
        batch = padded_batch(rows, self.job.model.tokenizer.pad_token_id)
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        targets = batch["labels"][:, 1:].to(model.device)
        logits = model(**inputs, use_cache=False).logits[:, :-1][targets != -100]
        return self._through_head(torch.nn.Identity(), logits, targets[targets != -100])

    def _through_head(
        self, head: Any, states: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score tokens a chunk at a time; a chunk's logits are made again for its gradient."""
        rows = max(1, CHUNK_BYTES // (4 * int(self.job.model.model.config.get_text_config().vocab_size)))
        part = partial(_scored_part, head, self.options.temperature)
        chunks = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
        found = torch.cat([checkpoint(part, some, wanted, use_reentrant=False) for some, wanted in chunks], dim=1)
        return found[0], found[1].detach()

    def step_figures(self) -> Mapping[str, float]:
        """Return the figures of the step; those of tokens are means over all tokens of its answers."""
        if not self.step or not self.sums:
            return {}
        tokens = sum(sum(rollouts.lengths) for rollouts in self.step)
        found = figures_of(self.step, self.options.generations)
        found |= {name: total / tokens for name, total in self.sums.items()}
        self.step, self.sums = [], {}
        return found

    # --- checkpoints and validation

    def save(self, directory: Path) -> None:
        """Write the answers on which further steps are taken, and how many were drawn."""
        kept = [[list(rows), rollouts.to_json()] for rows, rollouts in self.kept.items()]
        state = {"trained": self.trained, "drawn": self.drawn, "kept": kept}
        (directory / STATE).write_text(json.dumps(state), encoding="utf-8")

    def load(self, directory: Path) -> None:
        """Read what `save` has written; the steps after it are repeated."""
        state = json.loads((directory / STATE).read_text(encoding="utf-8"))
        self.trained, self.drawn = state["trained"], state["drawn"]
        self.kept = {tuple(rows): Rollouts.from_json(text) for rows, text in state["kept"]}
        self.job.record("rollouts", [{"event": "resume", "step": step_of(directory)}])

    def validation(self, batch_tokens: int) -> RewardValidation:
        """Return the reward of greedy answers to validation rows."""
        return RewardValidation(self.options, self.job, self.validation_rows)


class Reference:
    """The model before training: the adapter switched off, or a copy of the weights put in their places.

    Args:
        weights: the first values of the weights that train, by name; None for an adapter.
    """

    def __init__(self, model: Any, weights: Mapping[str, torch.Tensor] | None = None) -> None:
        self.model, self.weights = model, weights

    @contextlib.contextmanager
    def active(self, path: Any) -> Iterator[None]:
        """Make the model the reference inside the block, in evaluation mode."""
        was_training = self.model.training
        self.model.eval()
        try:
            if self.weights is None:
                with self.model.disable_adapter():
                    yield
                return
            now = {name: weight.data for name, weight in _training(self.model)}
            self._put(self.weights, path)
            try:
                yield
            finally:
                self._put(now, path)
        finally:
            self.model.train(was_training)

    def _put(self, values: Mapping[str, torch.Tensor], path: Any) -> None:
        for name, weight in _training(self.model):
            weight.data = values[name]
        if path is not None:
            path.weights_changed()


def train_grpo(options: GRPOOptions, job: ftp.TrainingJob) -> ftp.TrainResult:
    """Train as the options say; the result counts the tokens that were drawn and carried loss."""
    with ready_trainer(LoopTrainer, options, job) as trainer:
        result = train(trainer)
        assert isinstance(trainer.objective, PolicyObjective)
        return dataclasses.replace(result, trained_tokens=trainer.objective.trained)


def _scored_part(head: Any, temperature: float, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return log-probability and entropy of tokens, float32 [2, n]."""
    logs = functional.log_softmax(head(states).float() / temperature, -1)
    with torch.no_grad():
        entropy = -(logs.exp() * logs).sum(-1)
    return torch.stack([logs.gather(-1, targets[:, None])[:, 0], entropy])


def _training(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def _moved(value: Any, device: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
