"""TRL's SFTTrainer. `run_trl.py TASK lora|full|qlora default|stored|bfd|wrapped|agree`.

default: as it comes (float32 weights, bfloat16 autocast), rows padded to the longest of a batch. stored: the same with
gradient checkpointing, TRL's default, which the CPU bench turns off. bfd, wrapped: TRL's packing with its best
settings; on a CPU with glibc told to keep freed blocks, on CUDA with bfloat16 weights and, where installed,
FlashAttention and Liger. agree: from FTP's weights (bfloat16, float32 adapters), the rows once, in FTP's order. Under
torchrun it is accelerate's DDP, and the rows of a batch are shared out.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from typing import Any

from meter import Meter, keep_large_blocks, read_task, tokens_of


def main() -> None:
    task, (method, mode) = read_task()
    packing, cuda = mode in ("bfd", "wrapped"), task["device"] == "cuda"
    if packing and not cuda:
        keep_large_blocks()
    import datasets
    import peft
    import torch
    import transformers
    import trl

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    datasets.disable_caching()
    meter, notes = Meter(), []

    class Times(transformers.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                meter.step_ended()
                meter.losses.append(float(logs["loss"]))

    init: dict[str, Any] = {}
    if packing and cuda:
        init["dtype"] = "bfloat16"
        flash = importlib.util.find_spec("flash_attn") is not None
        init["attn_implementation"] = "flash_attention_2" if flash else "sdpa"
        notes.append(f"attention: {init['attn_implementation']}")
    elif packing:
        notes.append("attention: sdpa, " + ("a block mask over the pack" if mode == "bfd" else "causal over the pack"))
    if method == "qlora":
        init["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    liger = packing and cuda and importlib.util.find_spec("liger_kernel") is not None
    if packing and cuda:
        notes.append(f"liger: {liger}")
    rows, steps = task["rows"], task["warmup"] + task["steps"]
    if packing:  # a pack holds as many tokens as an average batch, so the rows may not be enough
        rows, batch = rows * 4, max(1, task["pack_tokens"] // task["max_length"])
    elif mode == "agree":
        rows, batch, steps = [rows[at] for at in task["order"]], task["batch"], task["steps"]
    else:
        batch = task["batch"]
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    with tempfile.TemporaryDirectory() as directory:
        args = trl.SFTConfig(
            output_dir=directory,
            model_init_kwargs=init if mode != "agree" else None,
            max_steps=steps,
            per_device_train_batch_size=batch // int(os.environ.get("WORLD_SIZE", 1)),
            learning_rate=task["learning_rate"] * (0.1 if method == "full" else 1),
            lr_scheduler_type="constant",
            gradient_checkpointing=mode == "stored",
            packing=packing,
            packing_strategy=mode if packing else "bfd",
            max_length=task["max_length"],
            train_sampling_strategy="sequential",
            use_liger_kernel=liger,
            use_cpu=not cuda,
            save_strategy="no",
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=cuda,
            seed=task["seed"],
        )
        model: Any = task["model"]
        if mode == "agree":
            model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
            model.requires_grad_(False)
            transformers.set_seed(task["seed"])
            model = peft.get_peft_model(model, lora)
        trainer = trl.SFTTrainer(
            model,
            args,
            train_dataset=datasets.Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows]),
            processing_class=transformers.AutoTokenizer.from_pretrained(task["model"]),
            peft_config=lora if method != "full" and mode != "agree" else None,
            callbacks=[Times()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        used = list(trainer.train_dataset)
        first = 1 if mode == "agree" else task["warmup"]
        if len(used) < steps * batch:
            raise SystemExit(f"only {len(used)} rows after packing, {steps * batch} are needed")
        trainer.train()
    meter.report(
        first,
        steps,
        tokens_of(used[first * batch : steps * batch]),
        ["torch", "transformers", "trl", "peft"],
        notes=notes,
    )


if __name__ == "__main__":
    main()
