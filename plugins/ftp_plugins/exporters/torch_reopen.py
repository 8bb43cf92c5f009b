"""Exports opened with the libraries that people load them with."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import ftp
from ftp.files import first_line
from ftp.lm.torch_devices import pick_device
from ftp.lm.torch_parity import opened


def with_transformers(path: Path, **options: Any) -> ftp.Exported:
    """Open a directory of Hugging Face files with plain transformers.

    Raises:
        ModelError: it can't be loaded, or not all weights are in it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path, device_map=pick_device(), dtype="auto", output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ftp.ModelError(f"{path}: transformers can't load the export: {first_line(error)}") from None
    if loading["missing_keys"]:
        raise ftp.ModelError(f"{path}: {len(loading['missing_keys'])} weights are missing from the export")
    return opened(model, tokenizer, f"transformers {version('transformers')}")


def with_peft(path: Path, base: ftp.LoadedModel) -> ftp.Exported:
    """Put an adapter on a base model with plain peft.

    Args:
        base: loaded as it is loaded for training.
    """
    from peft import PeftModel
    from transformers import AutoTokenizer

    model = PeftModel.from_pretrained(base.model, path)
    return opened(model, AutoTokenizer.from_pretrained(path), f"peft {version('peft')}")
