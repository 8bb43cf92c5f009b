"""FTP as a recipe runs it: loader, adapter and SFT trainer. `run_ftp.py TASK lora|full|qlora auto|off [agree]`.

The trainer forms its own batches, so the timed rows are gone through twice and the second pass is timed: the same rows
as the peers train on, each once, in whatever order. With `agree` they are gone through once. Under torchrun, with
FTP_COLLECTIVE_SECONDS in the environment, several processes train together.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from meter import Meter, read_task, tokens_of


def main() -> None:
    import transformers

    from ftp.components import TrainingJob
    from ftp.lm import allocator
    from ftp.lm.training.torch_processes import SECONDS, current, joined
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.adapters.full import Full
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.adapters.qlora import QLoRA
    from ftp_plugins.formatters.pairs import Alpaca
    from ftp_plugins.loaders.huggingface import HuggingFace
    from ftp_plugins.trainers.sft import SFT

    task, (method, speed, *agree) = read_task()
    transformers.logging.set_verbosity_error()
    allocator.keep_large_blocks()
    timed = slice(None) if agree else slice(task["warmup"] * task["batch"], None)
    adapter = {"lora": LoRA(r=16, alpha=32), "qlora": QLoRA(r=16, alpha=32), "full": Full()}[method]
    loader = HuggingFace(id=task["model"], device=task["device"])
    loaded = loader.load(adapter.prepare(loader.describe()))
    transformers.set_seed(task["seed"])
    loaded = adapter.apply(loaded)

    meter, notes = Meter(), []

    def emit(event: str, **values: Any) -> None:
        if event == "metric":
            meter.step_ended()
            meter.losses.append(values["loss"])
        elif event in ("speed", "note"):
            notes.append(f"{event}: " + "; ".join(f"{key} {value}" for key, value in values.items() if value))

    trainer = SFT(
        epochs=1 if agree else 2,
        batch_size=task["batch"],
        learning_rate=task["learning_rate"] * (0.1 if method == "full" else 1),
        schedule="constant",
        warmup=0,
        max_length=8192,
        evals_per_epoch=1e-3,  # no checkpoint on the way: the peers save none
        **({"speed": speed} if "speed" in SFT.model_fields else {}),
    )
    with (
        tempfile.TemporaryDirectory() as name,
        joined() if SECONDS in os.environ else contextlib.nullcontext(current()) as processes,
    ):
        directory = Path(name)
        rows = directory / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in task["texts"][timed]), encoding="utf-8")
        source = Source(path=str(rows), format=Alpaca())
        corpus, ledger = build_corpus(Data(train=[source], validation=0.0), directory / "data", directory, task["seed"])
        result = trainer.train(
            TrainingJob(
                loaded,
                corpus,
                ledger,
                directory / "checkpoints",
                seed=task["seed"],
                emit=processes.start_training(directory, emit),
            )
        )
    assert len(meter.ends) == result.steps, (len(meter.ends), result.steps)
    first = 1 if agree else result.steps // 2
    tokens = tokens_of(task["rows"][timed])
    if "speed" not in SFT.model_fields:
        notes.append("this trainer has no option `speed`")
    meter.report(
        first,
        result.steps,
        tokens,
        ["torch", "transformers", "trl", "peft", "bitsandbytes"],
        notes=notes,
    )


if __name__ == "__main__":
    main()
