"""Whether it changes what is learnt that rows with one document meet in a step.

    python bench/prefix_order.py [--seeds 3] [--documents 600] [--epochs 2] [--json]

Rows are questions on documents, six on each: a made-up word's colour, which the document gives among those of twelve
words. A small model trains all its weights on them in two ways: with prefixes computed once, in the batches that FTP
plans for that, and with every row by itself in batches drawn at random. Compared are the losses on rows of documents
that neither has seen, for each seed; the weights begin alike. Also given are the documents that a step sees.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from typing import Any

Row = dict[str, list[Any]]


def document_rows(count: int, seed: int) -> list[list[Row]]:
    """Return documents of pseudo-words with six questions each: a word's colour, which the document gives."""
    draw = random.Random(seed)
    letters, colours = [3 + at for at in range(26)], [40 + at for at in range(8)]
    documents = []
    for _ in range(count):
        words = [[draw.choice(letters) for _ in range(4)] for _ in range(12)]
        facts = [(word, draw.choice(colours)) for word in words]
        text = [1, *(token for word, colour in facts for token in (*word, 30, colour, 31))]
        rows = []
        for word, colour in draw.sample(facts, 6):
            ids = [*text, 32, *word, 33, colour, 2]
            rows.append({"input_ids": ids, "trained": [at >= len(ids) - 2 for at in range(len(ids))]})
        documents.append(rows)
    return documents


def small_model(seed: int) -> Any:
    import torch
    import transformers

    torch.manual_seed(seed)
    sizes = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = transformers.LlamaConfig(
        vocab_size=64, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, pad_token_id=0,
        **sizes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).train()


def trained(seed: int, once: bool, rows: Any, held_out: list[Row], epochs: int) -> dict[str, Any]:
    """Train all weights of a small model and return its loss on rows of other documents."""
    import torch

    from ftp_plugins.speed.torch_batches import packed_batch
    from ftp_plugins.speed.torch_path import FastPath

    model = small_model(seed)
    path = FastPath(model, torch.float32)
    if not once:
        path.separately = "measured for comparison"
    batches = path.plan_batches(rows, 16, seed)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    began, documents, steps = time.perf_counter(), 0, 0
    with path.layers():
        for epoch in range(epochs):
            for numbers in batches.of(epoch):
                some = [{"input_ids": rows[at].input_ids, "trained": rows[at].trained} for at in numbers]
                documents, steps = documents + len({at // 6 for at in numbers}), steps + 1
                batch = path.collate(some)
                with path.attention():
                    (path.loss(batch) / len(batch["targets"])).backward()
                optimizer.step()
                optimizer.zero_grad()
        taken = time.perf_counter() - began
        with torch.no_grad(), path.attention():
            batch = packed_batch(held_out)
            loss = path.loss(batch).item() / len(batch["targets"])
    return {"held_out_loss": loss, "documents_per_step": documents / steps, "seconds": taken}


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    import pyarrow as pa

    from ftp.lm.tokens import TokenRows

    results = []
    for seed in range(1, options.seeds + 1):
        rows = [row for document in document_rows(options.documents, seed) for row in document]
        ids = pa.array([row["input_ids"] for row in rows], pa.list_(pa.int32()))
        table = TokenRows(pa.table({"input_ids": ids, "trained": [row["trained"] for row in rows]}))
        others = [row for document in document_rows(50, 1000 + seed) for row in document]
        both = {way: trained(seed, way == "shared", table, others, options.epochs) for way in ("shared", "separately")}
        results.append({"seed": seed, **both})
    return results


def show(results: list[dict[str, Any]]) -> None:
    print(
        "seed   held-out loss: shared  separately   documents a step: shared  separately   seconds: shared  separately"
    )
    for of in results:
        a, b = of["shared"], of["separately"]
        print(
            f"{of['seed']:4} {a['held_out_loss']:22.4f} {b['held_out_loss']:11.4f} {a['documents_per_step']:27.1f} "
            f"{b['documents_per_step']:11.1f} {a['seconds']:18.0f} {b['seconds']:11.0f}"
        )
    apart = [of["shared"]["held_out_loss"] - of["separately"]["held_out_loss"] for of in results]
    spread = statistics.stdev(of["separately"]["held_out_loss"] for of in results) if len(results) > 1 else 0.0
    print(f"mean difference {statistics.fmean(apart):+.4f}; between seeds the loss varies by {spread:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--documents", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options)
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
