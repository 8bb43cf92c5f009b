"""Devices to plan for: memory, peak speed and links, as their makers give them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftp.errors import LaunchError, did_you_mean


@dataclass(frozen=True, slots=True)
class Device:
    """A kind of GPU. Memory is what CUDA reports as its total; the peak is dense bfloat16 with sums in float32."""

    name: str
    memory_gb: float
    """In 10^9 bytes."""
    tflops: float
    """Peak of matrix products, in 10^12 operations a second."""
    link_gb: float
    """Speed of an all-reduce between devices of one machine, in 10^9 bytes a second: NVLink, or PCIe without it."""


DEVICES = [
    Device("B200", 191.5, 2250, 700),
    Device("H200", 150.7, 989, 360),
    Device("H100", 85.0, 989, 360),
    Device("A100-80GB", 85.0, 312, 230),
    Device("A100-40GB", 42.3, 312, 230),
    Device("L40S", 47.6, 362, 12),
    Device("RTX 4090", 25.3, 165, 12),
]
"""From the data sheets: H100 and H200 SXM5, A100 SXM4, B200 as in DGX. All-reduce: three quarters of one direction."""
OTHER_NAMES = {"A100": "A100-80GB", "4090": "RTX 4090", "RTX4090": "RTX 4090", "H100-80GB": "H100"}
SPEC = re.compile(r"\s*(?:([0-9]{1,5})\s*[x×*]\s*)?(.+?)\s*", re.IGNORECASE)  # noqa: RUF001
PER_MACHINE = 8
"""GPUs of one machine; more of them are several machines."""


def parse_devices(text: str) -> tuple[int, Device | None]:
    """Return the number of devices and their kind, None for processors, of `8xH100` or `2 x CPU`.

    Raises:
        LaunchError: there is no constant for this kind.
    """
    match = SPEC.fullmatch(text)
    count, name = (int(match[1] or 1), match[2]) if match else (0, text)
    if name.upper() == "CPU" and count:
        return count, None
    wanted = OTHER_NAMES.get(name.upper().replace("_", "-"), name)
    for device in DEVICES:
        if _plain(device.name) == _plain(wanted) and count:
            return count, device
    names = ["CPU", *(device.name for device in DEVICES)]
    raise LaunchError(f"--devices {text}: write a number and a kind, as in 8xH100{did_you_mean(name, names)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
