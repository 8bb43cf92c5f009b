"""LoRA adapters as GGUF, for llama.cpp's `--lora`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ftp
from ftp.lm.rendering import stop_ids
from ftp.lm.torch_parity import opened
from ftp_plugins.exporters.gguf.architectures import architecture_of
from ftp_plugins.exporters.gguf.quantise import quantised
from ftp_plugins.exporters.gguf.torch_read import arrays_of
from ftp_plugins.exporters.gguf.torch_tensors import changes_of, name_map


def write_lora(file: Path, model: Any, name: str, kind: str) -> None:
    """Write the LoRA of a `peft.PeftModel`.

    llama.cpp multiplies B·A by alpha over rank; what another scale there is, as with rslora, goes into B.

    Raises:
        ModelError: there is more than plain LoRA of linear layers in it.
    """
    import gguf

    config = model.config.get_text_config()
    architecture = architecture_of(config)
    settings = _plain_lora(model)
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(settings.lora_alpha))
    stored = gguf.GGMLQuantizationType[kind]
    for mapped, path, layer in lora_layers(model):
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        change, _ = changes_of(path, config, architecture)
        b = change(b.detach().float().cpu()) * (layer.scaling["default"] * a.shape[0] / settings.lora_alpha)
        for part, weight in (("lora_a", a.detach().float().cpu()), ("lora_b", b)):
            values = quantised(weight.contiguous().numpy(), stored)
            writer.add_tensor(f"{mapped}.{part}", values, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _plain_lora(model: Any) -> Any:
    """Return peft's settings of an adapter that GGUF can hold."""
    settings = getattr(model, "peft_config", {}).get("default")
    if settings is None or str(settings.peft_type.value) != "LORA":
        raise ftp.ModelError("the adapter is no LoRA, so it has no form as GGUF; say content: model")
    beyond = {
        "dora": settings.use_dora,
        "modules_to_save": settings.modules_to_save,
        "new tokens": settings.trainable_token_indices,
        "adapters on experts": settings.target_parameters,
    }
    for what, there in beyond.items():
        if there:
            raise ftp.ModelError(f"the adapter has {what}, which GGUF adapters can't hold; say content: model")
    return settings


def lora_layers(model: Any) -> Iterator[tuple[str, str, Any]]:
    """Yield the layers with a LoRA: llama.cpp's name of the weight, transformers' name of it, and peft's layer.

    Raises:
        ModelError: llama.cpp has no such weight.
    """
    config = model.config.get_text_config()
    names = name_map(config, architecture_of(config))
    for path, layer in model.get_base_model().named_modules():
        if "default" in getattr(layer, "lora_A", {}):
            mapped = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
            if mapped is None:
                raise ftp.ModelError(f"llama.cpp has no place for an adapter on {path}; say content: model")
            yield mapped, f"{path}.weight", layer


def reopen_lora(job: ftp.ExportJob, path: Path, with_llama_cpp: bool) -> ftp.Exported:
    """Put an adapter in GGUF on the base model: in llama.cpp, or in peft with the weights from the file."""
    from ftp_plugins.exporters.gguf.torch_read import fields_of

    if with_llama_cpp:
        return _in_llama_cpp(job, path)
    loaded = job.load("trained")
    config, read = loaded.model.config.get_text_config(), arrays_of(path)
    alpha = fields_of(path)["adapter.lora.alpha"]
    with torch.no_grad():
        for mapped, name, layer in lora_layers(loaded.model):
            _, back = changes_of(name, config, architecture_of(config))
            a, b = (torch.from_numpy(read.pop(f"{mapped}.{part}")) for part in ("lora_a", "lora_b"))
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(back(b))
            layer.scaling["default"] = alpha / a.shape[0]
    if read:
        raise ftp.ModelError(f"{path}: the model has no place for {next(iter(read))}")
    return opened(loaded.model, loaded.tokenizer, f"peft {version('peft')}, weights read by FTP")


def _in_llama_cpp(job: ftp.ExportJob, path: Path) -> ftp.Exported:
    from ftp_plugins.exporters.gguf.torch_llama_cpp import with_llama
    from ftp_plugins.exporters.gguf.writer import write_gguf

    base = job.base()
    model = base.model
    if base.request.quantization:
        from ftp.lm.torch_weights import dequantized

        model = dequantized(model, base.request.dtype)
    stops = stop_ids(base.tokenizer, model.generation_config.eos_token_id)
    # Where there is room for it; llama.cpp maps it, so it may go once it is open.
    with tempfile.TemporaryDirectory(dir=job.directory) as place:
        file = Path(place) / "base.gguf"
        write_gguf(file, model, base.tokenizer, stops, base.name, "F32")
        return with_llama(file, base.tokenizer, stops, lora=path)
