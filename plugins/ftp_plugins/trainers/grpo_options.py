"""The options of `grpo`, and what they say of rewards and prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

import ftp
from ftp.data.examples import Examples
from ftp.files import first_few
from ftp.lm.tokens import TokenRows
from ftp_plugins.trainers.loop import LoopTraining

if TYPE_CHECKING:
    from ftp.recipe import Recipe


class GRPOOptions(LoopTraining):
    """Options of reinforcement learning from rewards."""

    answers_prompts: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("loss", "reward")
    also_known_as: ClassVar[Mapping[str, str]] = {
        **LoopTraining.also_known_as,
        **dict.fromkeys(("num_generations", "group_size", "rollouts", "samples", "n"), "generations"),
        **dict.fromkeys(("max_completion_length", "max_tokens", "max_response_length"), "max_new_tokens"),
        **dict.fromkeys(("beta", "kl_coef", "kl_loss_coef", "init_kl_coef"), "kl"),
        **dict.fromkeys(("num_iterations", "ppo_epochs", "mu"), "updates"),
        **dict.fromkeys(("epsilon", "clip_ratio", "cliprange", "epsilon_low"), "clip"),
        **dict.fromkeys(("epsilon_high", "clip_ratio_high"), "clip_high"),
        **dict.fromkeys(("loss_type", "loss_agg_mode"), "loss"),
        **dict.fromkeys(("scale_rewards", "adv_estimator", "advantage_estimator"), "advantage"),
        **dict.fromkeys(("reward_funcs", "reward_functions", "reward"), "rewards"),
        "mask_truncated_completions": "mask_cut",
    }

    rewards: list[Annotated[ftp.Evaluator, ftp.Weighted()]] = Field(min_length=1)
    """Evaluators whose scores, each times its `weight` (1 if left out), are summed to the reward of an answer."""
    generations: int = Field(default=8, ge=2)
    """Answers to each prompt, which are compared with each other."""
    max_new_tokens: int = Field(default=256, ge=1)
    """The longest answer in training, in tokens."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the answers."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most likely tokens that together have this probability."""
    advantage: Literal["grpo", "dr_grpo", "rloo"] = "grpo"
    """How good an answer is beside the others to its prompt. grpo: reward minus mean, over the standard deviation.
    dr_grpo: reward minus mean. rloo: reward minus the mean of the others."""
    loss: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """What the loss is a mean over. dapo: all tokens of a step. grpo: answers, each a mean over its tokens. dr_grpo:
    answers, each the sum over its tokens divided by `max_new_tokens`."""
    updates: int = Field(default=1, ge=1)
    """Optimizer steps on the same answers. From the second on, the clipping has an effect."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far the probability of a token may fall, as a share of what it was when it was drawn, and still be moved."""
    clip_high: float | None = Field(default=None, gt=0)
    """How far it may rise. Default: the value of `clip`; DAPO has 0.28."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the KL from the model before training: the base with the adapter switched off. Full training then keeps
    a copy of the first weights."""
    mask_cut: bool = False
    """Leave answers that were cut at `max_new_tokens` out of the loss."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with a prompt of more than `max_length` tokens. Dropped ones are noted in the ledger."""
    epochs: float = Field(default=1, gt=0)
    """Passes over the prompts."""
    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak rate. It is usually smaller than in supervised fine-tuning with the same adapter."""
    batch_size: int = Field(default=4, ge=1)
    """Prompts processed at once, each with all its answers."""
    max_length: int = Field(default=1024, ge=8)
    """Longest prompt in tokens."""
    best_by: str = "reward"
    """What makes a state the best: `reward`, the mean of greedy answers to validation rows, or an evaluator of the
    recipe that scores them; one that is no reward shows whether the reward still measures what it is meant to."""
    dev_rows: int = Field(default=50, ge=1)
    """Validation rows that are answered greedily and rewarded each time; the loss of a validation is the negative of
    their mean reward."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.neftune_noise_alpha is not None:
            found.append("neftune_noise_alpha: would blur the probabilities of the model's own answers; remove it")
        for reward in self.rewards:
            if not type(reward).scores_answers() or reward.on_its_own:
                found.append(f"rewards: '{reward.used_as}' gives no score to a single answer, so it can't be a reward")
            elif "weight" in type(reward).model_fields:
                found.append(f"rewards: '{reward.used_as}' has an option `weight` of its own, so it can't be a reward")
            elif "conversation" not in reward.takes:
                found.append(f"rewards: '{reward.used_as}' scores no answers to conversations")
        if all(reward.weight_given == 0 for reward in self.rewards):
            found.append("rewards: all have a weight of 0, so there is nothing to learn")
        if self.updates == 1:
            fields = type(self).model_fields  # a run's own recipe has every default written out
            unread = [name for name in ("clip", "clip_high") if getattr(self, name) != fields[name].default]
            found += [f"{name}: has an effect only with `updates:` above 1; remove it" for name in unread]
        return found

    def warnings(self, recipe: Recipe) -> list[str]:
        # Not the loop's: rates for rewards are lower than the usual ones of supervised fine-tuning.
        found = []
        verdicts = {evaluator.used_as for evaluator in recipe.evaluate}
        for reward in self.rewards:
            if reward.used_as in verdicts and reward.weight_given != 0:
                found.append(
                    f"rewards: '{reward.used_as}' is a reward and gives the verdict under `evaluate:`, too: the "
                    "measure becomes the target (Goodhart's law). Add an evaluator that is no reward"
                )
        return found

    def tokenise(
        self, corpus: ftp.Corpus, tokenizer: ftp.LoadedTokenizer, ledger: ftp.Ledger, progress: Callable[[int], None]
    ) -> None:
        for reward in self.rewards:
            reward.check(corpus.train)
            reward.check(corpus.validation[: self.dev_rows])
        super().tokenise(corpus, tokenizer, ledger, progress)

    def rows_of(
        self,
        examples: Examples,
        tokenizer: ftp.LoadedTokenizer,
        ledger: ftp.Ledger,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> TokenRows:
        """Tokenise prompts, and drop those that are too long; the ledger records it.

        Returns:
            The prompts that remain, with the columns `origin`, the source of each, and `row`, its number in `examples`.

        Raises:
            DataError: prompts are longer than `max_length` and `overlong` doesn't say to drop them.
        """
        import pyarrow as pa

        from ftp.lm.rendering import prompt_ids

        kept: list[tuple[int, list[int], str]] = []
        long: list[str] = []
        for number, example in enumerate(examples):
            ids = prompt_ids(tokenizer.tokenizer, example)
            if len(ids) <= self.max_length:
                kept.append((number, ids, example.origin))
                ledger.count_tokens(example.id, len(ids), 0)
            elif self.overlong == "drop":
                ledger.drop(example.id, by=self.used_as, reason=f"prompt longer than {self.max_length} tokens")
                ledger.count_tokens(example.id, 0, 0, lost=len(ids))
            else:
                long.append(f"{example.id}: the prompt has {len(ids)} tokens, max_length is {self.max_length}")
            progress(1)
        if long:
            raise ftp.DataError([*first_few(long, 10, "more prompts"), "Raise train.max_length, or set overlong: drop"])
        lists, flags = pa.list_(pa.int32()), pa.list_(pa.bool_())
        columns = {
            "input_ids": pa.array([ids for _, ids, _ in kept], lists),
            "trained": pa.array([[True] * len(ids) for _, ids, _ in kept], flags),
            "origin": pa.array([origin for _, _, origin in kept], pa.string()),
            "row": pa.array([number for number, _, _ in kept], pa.int64()),
        }
        return TokenRows(pa.table(columns))
