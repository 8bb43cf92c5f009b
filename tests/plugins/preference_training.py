"""Trainings on preference rows with the tiny model, for several tests."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RATE = 3e-3
PAIRS = [
    {
        "prompt": f"Double {n}.",
        "chosen": f"{n} doubled is {2 * n}." + " Really." * (n % 3),
        "rejected": f"I can't double {n}." + " Sorry." * (n % 2),
    }
    for n in range(2, 26)
]
FEEDBACK = [
    {"prompt": row["prompt"], "completion": row["chosen" if n % 2 else "rejected"], "label": bool(n % 2)}
    for n, row in enumerate(PAIRS)
]


@dataclass
class Training:
    """A job on the tiny model, and what it emits."""

    job: Any
    loaded: Any
    """The tokenizer, as `rows_of` takes it."""
    events: list = field(default_factory=list)

    def of(self, name):
        return [event for event in self.events if event["event"] == name]

    def losses(self):
        return [event["loss"] for event in self.of("metric")]


def job_on(tiny: Path, home: Path, rows, format, *, adapter=None, validation=0.25, heard=lambda event: None, seed=1):
    """Return a job that trains the tiny model on rows; `heard` is called with each event and may answer it."""
    import transformers

    import ftp
    from ftp.components import TrainingJob
    from ftp.lm.rendering import stop_ids
    from ftp.recipe.model import Data, Source
    from ftp.stages.prepare_data import build_corpus
    from ftp_plugins.adapters.lora import LoRA
    from ftp_plugins.loaders.huggingface import HuggingFace

    home.mkdir(parents=True, exist_ok=True)
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Source(path=str(home / "rows.jsonl"), format=format)
    corpus, ledger = build_corpus(Data(train=[source], validation=validation), home / "data", home, seed=seed)
    adapter = adapter or LoRA(r=4, dropout=0.0)
    loader = HuggingFace(id=str(tiny), device="cpu", dtype="float32")
    transformers.set_seed(seed)
    loaded = adapter.apply(loader.load(adapter.prepare(loader.describe())))
    tokenizer = loaded.tokenizer
    stops = stop_ids(tokenizer, loaded.model.generation_config.eos_token_id)
    training = Training(None, ftp.LoadedTokenizer(tokenizer, stops))

    def emit(name, **values):
        event = {"event": name, **values}
        training.events.append(event)
        return heard(event)

    training.job = TrainingJob(loaded, corpus, ledger, home / "checkpoints", seed, emit)
    return training


def losses_of_trl(base, config, job, model, entries, **options):
    """Train a model with one of TRL's trainers on tokenised rows in their order; return the loss of each step."""
    import trl
    from datasets import Dataset

    class Given(getattr(trl, base)):
        def _prepare_dataset(self, dataset, *args):
            return dataset

    args = getattr(trl, config)(
        output_dir=str(job.directory / "trl"), num_train_epochs=1, per_device_train_batch_size=4,
        learning_rate=RATE, lr_scheduler_type="constant", logging_steps=1, save_strategy="no", use_cpu=True, bf16=False,
        activation_checkpointing=False, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", **options,
    )  # fmt: skip
    rows, tokenizer = Dataset.from_list(entries), job.model.tokenizer
    trainer = Given(model=model, args=args, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
