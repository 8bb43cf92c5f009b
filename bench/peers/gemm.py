"""The ceiling: what this machine's matrix products alone allow for the task's model. `gemm.py TASK`.

For each linear layer of a decoder block with m rows (the tokens of an average batch): the products of the forward
pass, of the input's gradient (dX) and of the weight's gradient (dW), and of the output head with only the trained
positions. Everything else (attention, norms, the adapters, the optimizer) counts as free, so this is a bound.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from meter import read_task


def main() -> None:
    import torch

    task, _ = read_task()
    config = json.loads(Path(task["model"], "config.json").read_text(encoding="utf-8"))
    hidden, wide, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    head = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    steps = len(task["rows"]) / task["batch"]
    m = round(sum(len(row["input_ids"]) for row in task["rows"]) / steps)
    labels = round(sum(label != -100 for row in task["rows"] for label in row["labels"]) / steps)
    shapes = [(hidden, q), (hidden, kv), (hidden, kv), (q, hidden), (hidden, wide), (hidden, wide), (wide, hidden)]
    found: dict[str, Any] = {"m": m, "labels": labels}
    for name, dtype in {"bf16": torch.bfloat16, "fp32": torch.float32}.items():
        block = [sum(kinds) for kinds in zip(*(products(m, *shape, dtype) for shape in shapes), strict=True)]
        last = products(labels, hidden, config["vocab_size"], dtype)
        forward, dx, dw = (layers * of_block + of_head for of_block, of_head in zip(block, last, strict=True))
        flops = 3 * 2 * (layers * m * sum(k * n for k, n in shapes) + labels * hidden * config["vocab_size"])
        found[name] = {
            "gflops": flops / (forward + dx + dw) / 1e9,
            "lora_tokens_per_second": m / (forward + dx),
            "full_tokens_per_second": m / (forward + dx + dw),
        }
    print(json.dumps(found))


def products(m: int, k: int, n: int, dtype: Any) -> tuple[float, float, float]:
    """Return the seconds of x W^T, of dY W and of dY^T x, for x [m, k] and W [n, k]; the median of seven."""
    import torch

    x, w, dy = (torch.randn(size, dtype=dtype) for size in ((m, k), (n, k), (m, n)))
    return (
        seconds(lambda: torch.nn.functional.linear(x, w)),
        seconds(lambda: dy @ w),
        seconds(lambda: dy.t() @ x),
    )


def seconds(work: Any) -> float:
    times = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return sorted(times[2:])[3]


if __name__ == "__main__":
    main()
