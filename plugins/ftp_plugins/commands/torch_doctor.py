"""What torch reports about this machine, for `ftp doctor`."""

from __future__ import annotations

import logging

import torch

from ftp.files import first_line
from ftp.lm.processor import in_words
from ftp.lm.torch_devices import multiplies_bfloat16
from ftp.lm.torch_products import type_to_multiply_in


def devices(has_bitsandbytes: bool) -> dict[str, str]:
    """Describe processor and accelerators in words, by name: threads, bfloat16, memory, whether 4-bit weights work."""
    lines = {"torch threads": str(torch.get_num_threads())}
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = "in hardware" if multiplies_bfloat16("cpu") else "emulated"
    lines["cpu"] = f"{capability}, bfloat16 {bf16}"
    used, speeds = type_to_multiply_in("cpu")
    lines["products"] = f"{in_words(speeds)}: training multiplies in {used} where the recipe leaves it to the machine"
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if multiplies_bfloat16("cuda") else "no bfloat16"
        lines[f"cuda:{index}"] = f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {bf16}"
    if torch.backends.mps.is_available():
        lines["mps"] = "there"
    lines["4-bit"] = _four_bit() if has_bitsandbytes else "no: bitsandbytes is missing"
    return lines


def _four_bit() -> str:
    """Quantise a small matrix and multiply with it; return whether that works, in words."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes as bnb

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to(device)
        layer(torch.ones(1, 64, device=device))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return f"no: {first_line(error)}"
    return f"nf4 works on {device}"
