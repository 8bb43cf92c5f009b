"""The library's arguments for the options of a training."""

from __future__ import annotations

import math
from typing import Any

import trl

import ftp
from ftp_plugins.trainers.loop_options import LoopOptions
from ftp_plugins.trainers.schedules import in_steps, in_transformers
from ftp_plugins.trainers.torch_objective import Objective


def training_arguments(options: LoopOptions, job: ftp.TrainingJob, objective: Objective) -> Any:
    """Return the library's arguments for these options."""
    model = job.model.model
    batches = math.ceil(len(objective.lengths) / options.batch_size) * objective.repeats
    steps_per_epoch = math.ceil(batches / options.gradient_accumulation)
    steps = options.max_steps or max(1, math.ceil(steps_per_epoch * options.epochs))
    every = max(1, round(steps_per_epoch / options.evals_per_epoch))
    warmup = in_steps(options.warmup, steps)
    schedule, settings = in_transformers(
        options.schedule, steps, warmup,
        min_lr_ratio=options.min_lr_ratio, cycles=options.cycles, decay=options.decay,
    )  # fmt: skip
    on_cpu = model.device.type == "cpu"
    return trl.SFTConfig(
        output_dir=str(job.directory),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs=settings,
        warmup_steps=warmup,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        activation_checkpointing=options.gradient_checkpointing,
        bf16=objective.autocast,
        use_cpu=on_cpu,
        max_length=None,  # overlong rows are dropped or cut before
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        eval_strategy="steps" if objective.validates else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=options.save_steps or every,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not on_cpu,
        seed=job.seed,
        data_seed=job.seed,
    )
