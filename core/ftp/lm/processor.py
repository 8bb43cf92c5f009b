"""What the processor of this machine has instructions for, without torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

EMULATED = (
    "this processor has no instructions for bfloat16, so its products are emulated and several times slower than "
    "float32; `ftp doctor` measures both. Leave the option at auto"
)
"""What `ftp check` says of bfloat16 on such a processor."""
CPUINFO, NVIDIA = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia")


def trains_on_it(device: str) -> bool:
    """Return whether a model with this option `device` is computed on the processor; False where that isn't known."""
    return device == "cpu" or (device == "auto" and CPUINFO.is_file() and not NVIDIA.exists())


@cache
def emulates_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor lacks instructions for bfloat16; False where Linux doesn't say."""
    try:
        flags = next(line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_bf16", "amx_bf16"} & set(flags.split())
