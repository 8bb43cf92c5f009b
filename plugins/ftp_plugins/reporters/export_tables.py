"""Exports of a run in a model card and in the report: what each is and how near it came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def parity_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the comparison of an export with the run, as lines of Markdown."""
    row = parity_row(record)
    lines = [
        f"- compared with the model of the run on {row['prompts']} prompts, opened with {row['engine']}",
        f"- same token ids: {row['ids']}; same next token: {row['top1']} of {row['positions']} positions; "
        f"KL {row['kl']} nats per token; same greedy answer: {row['answers']}",
    ]
    lines += [f"- out of bounds: {miss}" for miss in record["misses"]]
    other = record.get("against_evaluated")
    if other:
        lines.append(
            f"- against the model that was evaluated: KL {other['kl']:.2g}, same next token {other['top1']:.1%}, same "
            f"answer {other['same_answers']:.1%}"
        )
    lines += [f"- SHA-256 of {name}: {value}" for name, value in record["files"].items() if _is_weights(name)]
    return lines


def parity_row(record: Mapping[str, Any]) -> dict[str, str]:
    """Return an export's figures as text, by name."""
    parity = record["parity"]
    state = "proven" if record["proven"] else "unproven"
    return {
        "format": record["format"],
        "directory": record.get("directory", ""),
        "main": record.get("main", ""),
        "state": state if record["evaluated"] else f"{state}; not the model that was evaluated",
        "engine": record["engine"],
        "prompts": str(parity["prompts"]),
        "positions": str(parity["positions"]),
        "ids": f"{parity['same_ids']} of {parity['prompts']}",
        "top1": f"{float(parity['top1']):.1%}",
        "kl": f"{float(parity['kl']):.2g}",
        "answers": f"{float(parity['same_answers']):.0%}",
    }


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))
