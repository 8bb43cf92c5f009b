"""What is known of the processor of this machine without torch: its instructions, and how fast it was measured."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ftp.cache import user_cache
from ftp.files import digest, new_file, read_plain_file

EMULATED = (
    "this processor has no instructions for {type}, so its products are emulated and several times slower than "
    "float32. Leave the option at auto; `ftp doctor` measures what is fastest here"
)
SLOWER = (
    "this processor multiplies float32 {ratio:.1f} times as fast as {type} ({speeds}, when it was last measured). "
    "Leave the option at auto"
)
CPUINFO, NVIDIA = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia")
INSTRUCTIONS = {"bfloat16": {"avx512_bf16", "amx_bf16"}, "float16": {"avx512_fp16", "amx_fp16"}}
TYPES = ("float32", "bfloat16")
"""The types whose products are measured; see `ftp.lm.torch_products`."""
AHEAD = 1.15
"""How many times as fast float32 has to be: at a tie, bfloat16 takes half the memory."""


def trains_on_it(device: str) -> bool:
    """Return whether a model with this option `device` is computed on the processor; False where that isn't known."""
    return device == "cpu" or (device == "auto" and CPUINFO.is_file() and not NVIDIA.exists())


def why_slow(dtype: str) -> str | None:
    """Return what `ftp check` says of a type that a recipe asks this processor to multiply in; None if it is fast.

    Where this user has measured the processor, by a run, a plan or `ftp doctor`, that counts; else its instructions.
    """
    speeds = measured_speeds() if dtype in TYPES else {}
    if speeds:
        if dtype == "float32" or fastest(speeds) == dtype:
            return None
        ratio = speeds["float32"] / speeds[dtype]
        return SLOWER.format(type=dtype, ratio=ratio, speeds=in_words(speeds))
    return EMULATED.format(type=dtype) if emulates(dtype) else None


def fastest(speeds: Mapping[str, float]) -> str:
    """Return the faster of both types; bfloat16 unless float32 is clearly ahead."""
    return "float32" if speeds["float32"] > AHEAD * speeds["bfloat16"] else "bfloat16"


def in_words(speeds: Mapping[str, float]) -> str:
    """Format the speed of both types."""
    return ", ".join(f"{name} {speeds[name]:,.0f} GFLOP/s" for name in TYPES)


@cache
def emulates(dtype: str, cpuinfo: Path = CPUINFO) -> bool:
    """Return whether the processor lacks instructions for a type; False where Linux doesn't say."""
    flags = _entry("flags", cpuinfo)
    return flags is not None and dtype in INSTRUCTIONS and not INSTRUCTIONS[dtype] & set(flags.split())


def measured_speeds() -> dict[str, float]:
    """Return GFLOP/s of products by type, as they were last measured on this processor; empty if they weren't."""
    try:
        found = json.loads(read_plain_file(_record(), 4096))
        return {name: float(found[name]) for name in TYPES if float(found[name]) > 0}
    except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged
        return {}


def note_speeds(speeds: Mapping[str, float]) -> None:
    """Keep the measured speeds of this processor in this user's cache."""
    with contextlib.suppress(OSError), new_file(_record(), shared=True) as aside:  # one that can't be written is none
        aside.write_text(json.dumps(dict(speeds)), encoding="utf-8")


def _record() -> Path:
    """Return the file with the speeds of this kind of processor: the cache may be on a disk of several machines."""
    return user_cache("processors") / f"{digest(_entry('model name', CPUINFO) or '')}.json"


def _entry(name: str, cpuinfo: Path) -> str | None:
    """Return what the first line of this name says; None where there is none."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), None)
