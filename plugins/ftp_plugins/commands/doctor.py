"""`ftp doctor`."""

from __future__ import annotations

from typing import Any

import click

from ftp.cli.options import JSON

PACKAGES = {
    "train": (
        "torch",
        "transformers",
        "peft",
        "trl",
        "datasets",
        "accelerate",
        "gguf",
        "pyarrow",
        "scipy",
        "matplotlib",
    ),
    "qlora": ("bitsandbytes",),
    "judge": ("openai",),
}


@click.command("doctor")
@JSON
def command(as_json: bool) -> None:
    """Say what this machine has and can do: versions, devices, bf16 and 4-bit support, what to install."""
    import json

    found = _look()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"ftp {found['ftp']}, Python {found['python']}, {found['system']}")
    for extra, packages in found["packages"].items():
        click.echo(f"\n[{extra}]")
        for package, version in packages.items():
            click.echo(f"  {package:14} {version or 'missing'}")
    click.echo("\n[hardware]")
    for name, value in found["hardware"].items():
        click.echo(f"  {name:14} {value}")
    for line in found["advice"]:
        click.echo(f"\n{line}")


def _look() -> dict[str, Any]:
    import importlib.metadata
    import os
    import platform

    import ftp
    from ftp import plugins

    packages: dict[str, dict[str, str | None]] = {}
    advice = []
    for extra, names in PACKAGES.items():
        packages[extra] = {}
        for name in names:
            try:
                packages[extra][name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                packages[extra][name] = None
        if None in packages[extra].values():
            advice.append(f"For {extra}: pip install 'ftp-finetune[{extra}]'")
    for plugin in plugins.load().broken():
        advice.append(f"Plugin {plugin.name} is broken: {plugin.error}")
    hardware: dict[str, str] = {"processors": str(os.cpu_count())}
    if packages["train"]["torch"]:
        hardware |= _devices(bool(packages["qlora"]["bitsandbytes"]))
    return {
        "ftp": ftp.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "hardware": hardware,
        "advice": advice or ["Everything is installed."],
    }


def _devices(has_bitsandbytes: bool) -> dict[str, str]:
    import torch

    found = {"torch threads": str(torch.get_num_threads())}
    capability = torch.backends.cpu.get_cpu_capability()
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    found["cpu"] = f"{capability}, bfloat16 {'in hardware' if fast else 'emulated: float32 is faster'}"
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
        found[f"cuda:{index}"] = f"{of.name}, {of.total_memory / 2**30:.0f} GiB, {bf16}"
    if torch.backends.mps.is_available():
        found["mps"] = "there"
    found["4-bit"] = _four_bit() if has_bitsandbytes else "no: bitsandbytes is missing"
    return found


def _four_bit() -> str:
    """Really quantise a small matrix and multiply with it."""
    import logging

    import torch

    from ftp.files import first_line

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes as bnb

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        layer = bnb.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to(device)
        layer(torch.ones(1, 64, device=device))
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        return f"no: {first_line(error)}"
    return f"nf4 works on {device}"
