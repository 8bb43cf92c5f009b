"""`ftp doctor`."""

from __future__ import annotations

from typing import Any

import click

from ftp.cli.echo import echo
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
    """Report what this machine has and supports: versions, devices, bf16 and 4-bit support, what to install."""
    import json

    found = _look()
    if as_json:
        echo(json.dumps(found, indent=2))
        return
    echo(f"ftp {found['ftp']}, Python {found['python']}, {found['system']}")
    for extra, packages in found["packages"].items():
        echo(f"\n[{extra}]")
        for package, version in packages.items():
            echo(f"  {package:14} {version or 'missing'}")
    echo("\n[hardware]")
    for name, value in found["hardware"].items():
        echo(f"  {name:14} {value}")
    for line in found["advice"]:
        echo(f"\n{line}")


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
        from ftp_plugins.commands.torch_doctor import devices

        hardware |= devices(bool(packages["qlora"]["bitsandbytes"]))
    return {
        "ftp": ftp.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "hardware": hardware,
        "advice": advice or ["Everything is installed."],
    }
