"""How fast training is on a GPU: FTP beside TRL as it comes and TRL's best settings, on random weights, no network.

    python bench/train_gpu.py [--only llama-3-8b/qlora/full-length,…] [--steps 8] [--warmup 3] [--rounds 1] [--json]
    python bench/train_gpu.py --tiny [--json]

Llama-3.2-1B and Llama-3-8B by shape (transformers' LlamaConfig, random weights, a tokenizer made up of words w0, w1,
…), written once below ~/.cache/ftp-bench/models (2.5 and 16 GB). LoRA (r=16, alpha=32, all linear layers but the head)
on bfloat16 weights, QLoRA (bitsandbytes nf4, double quantisation) and, on the 1B, full training; rows of exactly 2048
tokens (`full-length`, 4 a step) and rows with the lengths of Alpaca's (`alpaca`, 64 a step). TRL's best settings are
packing in which documents never see each other, bfloat16 weights, no gradient checkpointing, and FlashAttention and
Liger where they are installed; its default has gradient checkpointing and float32 weights under bfloat16 autocast.

Reported: tokens per second (padding not counted), peak memory allocated on the GPU, and MFU: the FLOPs that the model
needs for these tokens (nothing recomputed, no product for the gradient of a frozen weight) over the GPU's dense
bfloat16 peak from its data sheet. `--tiny` does all of it on the CPU with a tiny shape, to check that it runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODELS = Path.home() / ".cache" / "ftp-bench" / "models"
WORDS = 4096
TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] }}"
    "{{ ' <eos>' if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
}
"""Dense bfloat16 by a part of the device's name; the first match counts."""
CONTESTANTS = {"ftp": ["run_ftp.py", "auto"], "trl": ["run_trl.py", "stored"], "trl-best": ["run_trl.py", "bfd"]}


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes."""

    hidden: int
    wide: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    methods: tuple[str, ...]

    def linear(self) -> int:
        """Weights of the decoder's linear layers."""
        kv = self.hidden // self.heads * self.kv_heads
        return self.layers * (2 * self.hidden * self.hidden + 2 * self.hidden * kv + 3 * self.hidden * self.wide)

    def flops(self, method: str, lengths: list[int], answers: int) -> float:
        """Return the FLOPs of one pass over rows of these lengths, of which `answers` tokens carry loss.

        Two FLOPs for each weight and token forward, two for the input's gradient, two for the weight's where it
        trains; causal attention is half of its square. LoRA's own products are left out (about 1%).
        """
        passes = 6 if method == "full" else 4
        attention = 3 * self.layers * sum(2 * length**2 * self.hidden for length in lengths)
        return passes * (self.linear() * sum(lengths) + self.hidden * self.vocabulary * answers) + attention


SHAPES = {
    "llama-3.2-1b": Shape(2048, 8192, 16, 32, 8, 128256, True, ("lora", "qlora", "full")),
    "llama-3-8b": Shape(4096, 14336, 32, 32, 8, 128256, False, ("lora", "qlora")),
}
TINY = {"tiny": Shape(64, 128, 2, 4, 2, WORDS + 8, True, ("lora", "qlora", "full"))}


# --- model and rows ---


def make_model(directory: Path, shape: Shape, device: str) -> None:
    """Write random bfloat16 weights and a tokenizer of words, whole or not at all."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.wide,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    special = ["<pad>", "<eos>", "<user>", "<assistant>", "<unk>"]
    vocabulary = {word: at for at, word in enumerate([*special, *(f"w{n}" for n in range(WORDS))])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=special[2:4],
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    aside = directory.with_suffix(".part")
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(directory)


def lengths_of(kind: str, count: int, length: int) -> list[int]:
    if kind == "full-length":
        return [length] * count
    draw, mean, sigma = random.Random(0), min(100, length // 4), 0.55
    drawn = (draw.lognormvariate(math.log(mean) - sigma**2 / 2, sigma) for _ in range(count))
    return [max(8, min(4 * mean, round(found))) for found in drawn]


def made_up(lengths: list[int]) -> tuple[list[dict[str, str]], list[dict[str, list[int]]]]:
    """Make rows of random words as texts and as token ids; the second half of each is its answer."""
    draw, texts, rows = random.Random(0), [], []
    for length in lengths:
        asked = [draw.randrange(WORDS) for _ in range((length - 3) // 2)]
        said = [draw.randrange(WORDS) for _ in range(length - 3 - len(asked))]
        prompt, answer = [2, *(5 + n for n in asked), 3], [*(5 + n for n in said), 1]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
        texts.append(
            {
                "instruction": " ".join(f"w{n}" for n in asked),
                "input": "",
                "output": " ".join(f"w{n}" for n in said),
            }
        )
    return texts, rows


# --- contestants ---


def measure(
    name: str, method: str, directory: Path, shape: Shape, kind: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Run one contestant in a process of its own; return `error` instead of the figures if it fails."""
    batch = options.batch_full if kind == "full-length" else options.batch_alpaca
    lengths = lengths_of(kind, (options.warmup + options.steps) * batch, options.length)
    texts, rows = made_up(lengths)
    task = {
        "model": str(directory),
        "texts": texts,
        "rows": rows,
        "batch": batch,
        "max_length": options.length,
        "pack_tokens": round(statistics.mean(lengths) * batch),
        "learning_rate": 1e-4,
        "seed": 1,
        "device": options.device,
        "warmup": options.warmup,
        "steps": options.steps,
    }
    script, mode = CONTESTANTS[name]
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside, "task.json")
        file.write_text(json.dumps(task), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, HERE / "peers" / script, file, method, mode],
            capture_output=True,
            text=True,
            check=False,
            cwd=aside,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no word of why"])[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    speed = found["tokens"] / found["seconds"]
    answers = sum(label != -100 for row in rows for label in row["labels"])
    per_token = shape.flops(method, lengths, answers) / sum(lengths)
    peak = options.peak_tflops
    return {
        "tokens_per_second": speed,
        "mfu": speed * per_token / (peak * 1e12) if peak else None,
        "peak_mb": found["peak_mb"],
        "notes": found["notes"],
    }


def median_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median run by speed, or the first that failed."""
    failed = [run for run in runs if "error" in run]
    return failed[0] if failed else sorted(runs, key=lambda run: run["tokens_per_second"])[len(runs) // 2]


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    code = "import torch; print(torch.cuda.get_device_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit("no CUDA device is here; --tiny checks the bench on the CPU")
    return done.stdout.strip()


def run_all(options: argparse.Namespace, models: Path) -> dict[str, Any]:
    cases: dict[str, Any] = {}
    for size, shape in (TINY if options.tiny else SHAPES).items():
        for method in shape.methods:
            for kind in ("full-length", "alpaca"):
                case = f"{size}/{method}/{kind}"
                if options.only and case not in options.only.split(","):
                    continue
                directory = models / size
                if not directory.is_dir():
                    make = [sys.executable, str(HERE / "train_gpu.py"), "--make", size, str(directory), options.device]
                    subprocess.run(make, check=True, stdout=sys.stderr)
                runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
                for number in range(options.rounds):
                    for name, found in runs.items():
                        print(f"round {number + 1}: {case} {name}", file=sys.stderr)
                        found.append(measure(name, method, directory, shape, kind, options))
                cases[case] = compared({name: median_of(found) for name, found in runs.items()})
    if not cases:
        sys.exit(f"--only {options.only}: no such case")
    return cases


def compared(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def ratio(other: str, key: str) -> float | None:
        return found["ftp"][key] / found[other][key] if key in found["ftp"] and key in found[other] else None

    return {
        **found,
        "vs_trl": ratio("trl", "tokens_per_second"),
        "vs_trl_best": ratio("trl-best", "tokens_per_second"),
        "memory_vs_trl": ratio("trl", "peak_mb"),
        "memory_vs_trl_best": ratio("trl-best", "peak_mb"),
    }


def show(results: dict[str, Any]) -> None:
    for case, found in results["cases"].items():
        print(case)
        for name in CONTESTANTS:
            of = found[name]
            if "error" in of:
                print(f"  {name:9} failed: {of['error']}")
                continue
            mfu = "" if of["mfu"] is None else f"   MFU {of['mfu']:.0%}"
            notes = "; ".join(of["notes"])
            print(f"  {name:9} {of['tokens_per_second']:9,.0f} tokens/s{mfu}   {of['peak_mb']:8,.0f} MB   {notes}")
        if found["vs_trl_best"]:
            print(f"  over TRL's best {found['vs_trl_best']:.2f}x, memory {found['memory_vs_trl_best']:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--batch-full", type=int, default=4, help="rows a step of full length")
    parser.add_argument("--batch-alpaca", type=int, default=64, help="rows a step with Alpaca's lengths")
    parser.add_argument("--only", metavar="CASE,…", help="such as llama-3-8b/qlora/alpaca")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU: a check, no measurement")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        size, directory, device = options.make
        make_model(Path(directory), {**SHAPES, **TINY}[size], device)
        return
    options.length, options.device = 2048, "cuda"
    if options.tiny:
        options.length, options.device, options.steps, options.warmup = 64, "cpu", 2, 1
        options.batch_full, options.batch_alpaca = 2, 4
    name = device_name(options.device)
    options.peak_tflops = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
    if options.tiny:
        with tempfile.TemporaryDirectory() as models:
            cases = run_all(options, Path(models))
    else:
        MODELS.mkdir(parents=True, exist_ok=True)
        cases = run_all(options, MODELS)
    results = {
        "cases": cases,
        "conditions": {
            "device": name,
            "peak_tflops": options.peak_tflops,
            "sequence": options.length,
            "batch": {"full-length": options.batch_full, "alpaca": options.batch_alpaca},
            "steps": options.steps,
            "warmup": options.warmup,
            "rounds": options.rounds,
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("torch", "transformers", "trl", "peft", "bitsandbytes")
            },
        },
    }
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
