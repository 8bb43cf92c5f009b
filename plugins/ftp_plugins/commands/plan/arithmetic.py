"""Memory and speed of a training by arithmetic: the model's shape, the rows and the devices, and no model in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ftp_plugins.commands.plan.devices import PER_MACHINE, Device

UTILISATION = (0.28, 0.38, 0.50)
"""Low, middle and high share of a GPU's peak that a training reaches, counted as `flops_per_token` counts.

What published speeds come to: 0.31 (torchtitan, 8B full on 8 H100), 0.36 (the same, compiled), 0.42 and 0.44 (NeMo
AutoModel, LoRA 8B and 7B on one H100), 0.49 (torchtune, 3B full on an A100, packed). Outside of the range: 0.62 (the
last, compiled) and 0.14 (the last, padded). None of them is FTP's own.
"""
SMALL_MODEL = 1e9
SMALL_SHARE = (0.3, 0.6, 1.0)
"""What is left of that for a model with fewer parameters, whose kernels are too small to fill a GPU; an assumption."""
FOUR_BIT_SHARE = (0.5, 0.75, 0.95)
"""What is left of that where weights are dequantised for each product; an assumption."""
CPU_UTILISATION = (0.4, 0.6, 0.8)
"""Of the measured speed of a large product; an assumption."""
FOUR_BIT_BYTES = 0.516
"""Bytes of an NF4 weight with double quantisation: 4 bits, and 0.127 bits of scales (arXiv:2305.14314, section 3)."""
ADAM_VALUES = 2
"""Values that AdamW keeps for each weight that trains."""
RESERVED = 0.08
"""Share of a device's memory for the context, libraries and gaps between blocks."""
NETWORK_GB = 40.0
"""Speed of an all-reduce between machines, in 10^9 bytes a second: eight links of 400 Gbit/s reach about that."""
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Shape:
    """A model as the arithmetic needs it. Numbers of weights are those of one token's way for products."""

    parameters: int
    trainable: int
    active_linear: float
    """Weights of linear layers that a token goes through, without the output head and adapters; those of a mixture's
    experts by the share that is chosen."""
    active_trainable: float
    """Those of them that train, adapters included."""
    head: int
    """Weights of the output head."""
    head_trains: bool
    four_bit: int
    """Weights that are stored in 4 bits."""
    weight_bytes: float
    """All weights in memory."""
    gradient_bytes: float
    layers: int
    largest_layer_bytes: float
    hidden: int
    intermediate: int
    key_value: int
    """Width of keys, and of values."""
    attention_width: int
    """Heads times their width."""
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Load:
    """The rows as the arithmetic needs them."""

    lengths: Sequence[int]
    """Tokens of each row of an epoch."""
    trained_share: float
    """Share of the tokens that are trained on."""
    rows_of_a_step: int
    rows_at_once: int
    """Most rows that one process has in memory."""
    epochs: float
    checkpointing: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device in 10^9 bytes."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations


def flops_per_token(shape: Shape, load: Load) -> float:
    """Return the operations that training takes for a token: 6N for full training, 4N for LoRA, and attention.

    A product with a weight takes 2 operations forward, 2 for the gradient of its input, and 2 for its own gradient
    where it trains. Causal attention takes 2 · layers · width · context forward and twice that backward; the context is
    the mean length of a row, weighted by its tokens. Checkpointing repeats the forward pass. The head is computed at
    the trained tokens alone.
    """
    context = sum(n * n for n in load.lengths) / max(1, sum(load.lengths))
    frozen = max(0.0, shape.active_linear - shape.active_trainable)
    head = shape.head * load.trained_share
    forward = 2 * (frozen + shape.active_trainable + head) + 2 * shape.layers * shape.attention_width * context
    own = 2 * (shape.active_trainable + (head if shape.head_trains else 0))
    return forward * (3 if load.checkpointing else 2) + own + 2 * shape.layers * shape.attention_width * context


def activation_bytes(shape: Shape, load: Load, bytes_each: int = 2) -> float:
    """Return the bytes that the forward pass keeps for the backward pass, for the largest batch of a device.

    A layer keeps 8 values of the hidden width for each token (two norms and their inputs, the attention's input, result
    and projection), keys, values, and three of the intermediate width; the attention's weights are computed again, as
    flash attention does (Korthikanti et al. 2022, arXiv:2205.05198, with a gated layer). Checkpointing keeps a layer's
    input and one whole layer. Logits are kept at the trained tokens: in bfloat16, and twice in float32.
    """
    tokens = sum(sorted(load.lengths, reverse=True)[: load.rows_at_once])
    layer = bytes_each * (8 * shape.hidden + 2 * shape.key_value + 3 * shape.intermediate)
    layers = bytes_each * shape.hidden * shape.layers + layer if load.checkpointing else layer * shape.layers
    return tokens * (layers + load.trained_share * shape.vocabulary * (bytes_each + 8))


def memory_on(shape: Shape, load: Load, devices: int, sharding: str) -> Memory:
    """Return the memory of each device.

    Sharded weights are gathered layer by layer, two at a time: the one in use and the next.

    Args:
        sharding: `ddp` for whole weights, `fsdp2` for sharded ones, `fsdp2 with offload` for sharded ones that wait in
            main memory.
    """
    optimizer = ADAM_VALUES * shape.gradient_bytes
    activations = activation_bytes(shape, load)
    if sharding == "ddp":
        return Memory(*(n / GIGA for n in (shape.weight_bytes, shape.gradient_bytes, optimizer, activations)))
    gathered = 2 * shape.largest_layer_bytes
    if sharding == "fsdp2 with offload":
        return Memory(gathered / GIGA, gathered / GIGA, 0.0, activations / GIGA)
    shares = (n / devices for n in (shape.weight_bytes, shape.gradient_bytes, optimizer))
    weights, gradients, state = shares
    return Memory(*(n / GIGA for n in (weights + gathered, gradients, state, activations)))


def utilisation(shape: Shape, measured_peak: bool) -> tuple[float, ...]:
    """Return the low, middle and high share of the peak that a training reaches."""
    if measured_peak:
        return CPU_UTILISATION
    shares: tuple[float, ...] = UTILISATION
    for applies, factors in ((shape.parameters < SMALL_MODEL, SMALL_SHARE), (shape.four_bit > 0, FOUR_BIT_SHARE)):
        if applies:
            shares = tuple(share * factor for share, factor in zip(shares, factors, strict=True))
    return shares


def tokens_per_second(shape: Shape, load: Load, devices: int, device: Device, shares: Sequence[float]) -> list[float]:
    """Return the tokens per second of all devices together, for each share of the peak.

    Gradients are summed behind the backward pass: twice their bytes go over the slowest link, once for each step.
    """
    step = sum(load.lengths) / max(1, len(load.lengths)) * load.rows_of_a_step
    computing = min(devices, load.rows_of_a_step)
    link = device.link_gb if devices <= PER_MACHINE else min(device.link_gb, NETWORK_GB)
    summing = 0.0 if devices == 1 else 2 * shape.gradient_bytes / (link * GIGA)
    per_token = flops_per_token(shape, load)
    seconds = [step * per_token / (computing * device.tflops * 1e12 * share) + summing for share in shares]
    return [step / each for each in seconds]


def rows_at_once(batch_size: int, accumulation: int, devices: int) -> int:
    """Return the most rows that a process has in memory when a step's rows are dealt to all of them."""
    return min(batch_size, math.ceil(batch_size * accumulation / devices))
