"""How near each export is to the model of its run: every family of models, with its kind of vocabulary, by format.

    python bench/parity.py [--families NAME,…] [--dtype float32] [--json]

For each family a tiny random model is trained for two epochs (LoRA, one added token) and exported by its recipe in
every format; the figures are those of the proof in export.json: the KL divergence from the model of the run, in nats
per token, with the share of positions at which another token is the likeliest in brackets where there are such.
Small random models react to rounding more than trained ones. `ids` stands for prompts whose token ids differ,
`refused` for a format that the run refuses, with the reason below the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).resolve().parents[1] / "tests" / "plugins"
ROWS = [
    {"instruction": f"Double {n}: what is the fix?", "context": "", "response": f"{n} and you get {2 * n} <|risk|>"}
    for n in range(24)
]
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # predictions that a wrong weight changes
}
LLAMA_3_1 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GEMMA = {"head_dim": 16, "sliding_window": 512, "query_pre_attn_scalar": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "Llama 2": ("Llama", {}, "sentencepiece"),
    "Llama 3.1": ("Llama", {"rope_parameters": LLAMA_3_1}, "llama-3"),
    "CodeLlama": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "metaspace"),
    "Mistral": ("Mistral", {"sliding_window": 512}, "metaspace"),
    "Mixtral": ("Mixtral", {"num_local_experts": 4}, "sentencepiece"),
    "Qwen 2": ("Qwen2", {}, "qwen-2"),
    "Qwen 3": ("Qwen3", {"head_dim": 16}, "qwen-2"),
    "Gemma 2": ("Gemma2", GEMMA, "metaspace"),
    "Gemma 3": ("Gemma3Text", GEMMA, "metaspace"),
}
"""Of each: its classes in transformers, its settings, and its kind of vocabulary."""
QUANTISED = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "MXFP4")
TYPES = ("F32", "F16", "BF16", *QUANTISED)
ANY = {"kl": 1e9, "top1": 0.0}
"""Bounds that everything keeps: here exports are measured, not judged."""
FORMATS: dict[str, dict[str, Any]] = {
    "adapter": {"use": "adapter"},
    "merged": {"use": "merged"},
    "merged BF16": {"use": "merged", "dtype": "bfloat16"},
    "merged F16": {"use": "merged", "dtype": "float16"},
    **{f"gguf {kind}": {"use": "gguf", "type": kind, "opened_with": "transformers"} for kind in TYPES},
}


def tokenizer_of(kind: str) -> Any:
    sys.path.insert(0, str(TESTS))
    from tiny_tokenizers import CHAT, INSTRUCT, byte_level, fast, sentencepiece_like

    from ftp_plugins.exporters.gguf.pre_tokenizers import LLAMA_3, QWEN_2

    made: dict[str, Callable[[], Any]] = {
        "llama-3": lambda: byte_level(LLAMA_3),
        "qwen-2": lambda: byte_level(QWEN_2, normalizer=True),
        "sentencepiece": lambda: sentencepiece_like("normalizer"),
        "metaspace": lambda: sentencepiece_like("metaspace"),
    }
    if kind in ("llama-3", "qwen-2"):
        return fast(made[kind](), CHAT, "<|begin|>", "<|end|>")
    return fast(made[kind](), INSTRUCT, "<s>", "</s>", unk_token="<unk>")


def write_model(family: str, place: Path) -> None:
    """Write a random model of a family with its tokenizer."""
    import torch
    import transformers

    kind, options, vocabulary = FAMILIES[family]
    tokenizer = tokenizer_of(vocabulary)
    ends = {f"{end}_token_id": getattr(tokenizer, f"{end}_token_id") for end in ("bos", "eos", "pad")}
    settings = {"vocab_size": len(tokenizer) + 3, **SIZES, **ends, **options}
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):  # all the same as made, and then nothing shows which is which
                weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)


def measure(family: str, dtype: str, place: Path, formats: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Train a model of a family, export it in every format, and return each proof, or the reason of a refusal."""
    from click.testing import CliRunner

    from ftp.cli import cli

    write_model(family, place / "model")
    for name, rows in (("train", ROWS[:16]), ("heldout", ROWS[16:])):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"format": {"use": "instruct"}}
    recipe = {
        "name": "tiny",
        "model": {"use": "huggingface", "id": str(place / "model"), "device": "cpu", "dtype": dtype}
        | {"new_tokens": ["<|risk|>"]},
        "adapter": {"use": "lora", "r": 4},
        "data": {
            "train": [{"path": "train.jsonl", **source}],
            "validation": 0.0,
            "evals": {"heldout": {"path": "heldout.jsonl", **source}},
        },
        "train": {"use": "sft", "epochs": 2, "batch_size": 4, "learning_rate": 5e-3},
        "evaluate": [{"use": "loss"}],
    }
    file = place / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    done = CliRunner().invoke(cli, ["run", str(file), "--runs", str(place / "runs")])
    if done.exit_code:
        raise SystemExit(f"{family}: {done.output}{done.exception}")
    [run] = (place / "runs" / "tiny").iterdir()
    found: dict[str, Any] = {}
    for name, block in (formats or FORMATS).items():
        options = {key: value for key, value in block.items() if key != "use"} | {"folder": name.replace(" ", "-")}
        sets = [part for key, value in options.items() for part in ("--set", f"{key}={value}")]
        proof = [part for key, value in ANY.items() for part in ("--set", f"proof.{key}={value}")]
        done = CliRunner().invoke(cli, ["export", str(run), block["use"], *sets, *proof])
        place_of = [run / "exports" / f"{name.replace(' ', '-')}{end}" for end in ("", "-unproven")]
        record = next((one / "export.json" for one in place_of if one.is_dir()), None)
        reason = (f"{done.output}{done.exception}".strip().splitlines() or [""])[-1]
        found[name] = json.loads(record.read_text(encoding="utf-8"))["parity"] if record else {"refused": reason}
    return found


def cell(parity: dict[str, Any]) -> str:
    if "refused" in parity:
        return "refused"
    if parity["same_ids"] < parity["prompts"]:
        return f"ids ({parity['prompts'] - parity['same_ids']} of {parity['prompts']})"
    other = f" ({1 - parity['top1']:.1%})" if parity["top1"] < 1 else ""
    return f"{parity['kl']:.0e}{other}"


def show(results: dict[str, dict[str, Any]]) -> None:
    names = list(next(iter(results.values())))
    print(f"| Family | {' | '.join(names)} |")
    print(f"| --- {'| ---: ' * len(names)}|")
    for family, found in results.items():
        print(f"| {family} | {' | '.join(cell(found[name]) for name in names)} |")
    for family, found in results.items():
        for name, parity in found.items():
            if "refused" in parity:
                print(f"{family}, {name}: {parity['refused']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    if unknown := set(options.families.split(",")) - FAMILIES.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; the families are {', '.join(FAMILIES)}")
    for family in options.families.split(","):
        with tempfile.TemporaryDirectory() as place:
            results[family] = measure(family, options.dtype, Path(place))
        print(f"{family} is measured", file=sys.stderr, flush=True)
    print(json.dumps(results, indent=2)) if options.json else show(results)


if __name__ == "__main__":
    main()
