"""Advantages and losses of group-relative policy optimisation, as published.

- GRPO: Shao et al. 2024, "DeepSeekMath" (arXiv:2402.03300).
- RLOO: Ahmadian et al. 2024, "Back to Basics" (arXiv:2402.14740).
- Dr. GRPO: Liu et al. 2025, "Understanding R1-Zero-Like Training" (arXiv:2503.20783).
- DAPO: Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale" (arXiv:2503.14476).
- The clipped objective: Schulman et al. 2017, "Proximal Policy Optimization Algorithms" (arXiv:1707.06347).
- The estimator of the KL: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
"""

from __future__ import annotations

from typing import Literal

import torch

Advantage = Literal["grpo", "dr_grpo", "rloo"]
Loss = Literal["grpo", "dapo", "dr_grpo"]
EPSILON = 1e-4
"""Added to the standard deviation of a group, as TRL does: a group of equal rewards has no advantage."""


def advantages(rewards: torch.Tensor, kind: Advantage) -> torch.Tensor:
    """Return how much better each answer is than the other answers to its prompt.

    `grpo`: (r - mean) / (standard deviation + 1e-4) over the group. `dr_grpo`: r - mean, without the division that
    favours prompts which are nearly solved or nearly hopeless. `rloo`: r - the mean of the others.

    Args:
        rewards: float [prompts, answers]; NaN is a missing one, which has no part in a mean and no advantage.

    Returns:
        Float [prompts, answers].
    """
    known = ~rewards.isnan()
    count = known.sum(1, keepdim=True)
    values = rewards.nan_to_num(0.0)
    if kind == "rloo":
        others = (values.sum(1, keepdim=True) - values) / (count - 1).clamp(min=1)
        return torch.where(known & (count > 1), values - others, 0.0)
    mean = values.sum(1, keepdim=True) / count.clamp(min=1)
    apart = torch.where(known, values - mean, 0.0)
    if kind == "dr_grpo":
        return apart
    variance = (apart**2).sum(1, keepdim=True) / (count - 1).clamp(min=1)
    return apart / (variance.sqrt() + EPSILON)


def kl_k3(log_probs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the estimate k3 of the KL of a policy from the reference at each drawn token, in nats, never below 0.

    exp(d) - d - 1 with d the log-probability of the reference minus that of the policy.
    """
    apart = reference - log_probs
    return torch.exp(apart) - apart - 1


def token_losses(
    log_probs: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    clip: tuple[float, float],
    kl: float = 0.0,
    reference: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss of each token, -min(ratio · A, clipped ratio · A) + kl · ratio · k3, differentiable.

    The ratio before k3 makes its gradient that of the KL without bias (DeepSeek-AI 2025, "DeepSeek-V3.2",
    arXiv:2512.02556), and is TRL's default too.

    Args:
        log_probs: of the drawn tokens under the policy that trains, float [N].
        old: the same under the policy that drew them, without gradient.
        advantage: of the answer that each token belongs to, float [N].
        clip: how far the ratio of the two probabilities may fall below and rise above 1.
        kl: weight of the KL from the reference.
        reference: log-probabilities under the reference; needed where `kl` isn't 0.
    """
    ratio = torch.exp(log_probs - old)
    clipped = ratio.clamp(1 - clip[0], 1 + clip[1])
    loss = -torch.min(ratio * advantage, clipped * advantage)
    return loss if not kl or reference is None else loss + kl * ratio * kl_k3(log_probs, reference)


def clipped_tokens(
    log_probs: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip: tuple[float, float]
) -> torch.Tensor:
    """Return for each token whether the clipping takes its gradient away, bool [N]."""
    ratio = torch.exp(log_probs - old)
    return ((ratio < 1 - clip[0]) & (advantage < 0)) | ((ratio > 1 + clip[1]) & (advantage > 0))


def token_weights(lengths: torch.Tensor, kind: Loss, longest: int) -> torch.Tensor:
    """Return the factor of each token's loss before the division by what `divisor` counts, float [N].

    `grpo` takes the mean over each answer's tokens and then over answers, which gives a token of a long answer less
    weight. `dapo` takes the mean over all tokens. `dr_grpo` divides the sum of each answer by a constant, the longest
    length that an answer may have.

    Args:
        lengths: trained tokens of each answer, int64 [answers]; their sum is N.
        longest: `max_new_tokens`.
    """
    if kind == "dapo":
        return torch.ones(int(lengths.sum()), device=lengths.device)
    per_answer = (
        1 / lengths.float() if kind == "grpo" else torch.full(lengths.shape, 1 / longest, device=lengths.device)
    )
    return per_answer.repeat_interleave(lengths)


def divisor(lengths: list[int], kind: Loss) -> int:
    """Return what the weighted sum of an optimizer step is divided by: its tokens for `dapo`, else its answers."""
    return max(1, sum(lengths)) if kind == "dapo" else len(lengths)
