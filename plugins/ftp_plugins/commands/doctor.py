"""`ftp doctor`."""

from __future__ import annotations

from typing import Any

import click

from ftp.cli.echo import echo
from ftp.cli.options import JSON

EXTRAS = ("train", "qlora", "judge", "excel", "serve")
"""The extras to look at: those that `ftp-finetune[all]` brings."""


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
    import os
    import platform

    import ftp
    from ftp import plugins

    packages = _packages()
    missing = [extra for extra, versions in packages.items() if None in versions.values()]
    advice = [f"For {extra}: pip install 'ftp-finetune[{extra}]'" for extra in missing]
    for plugin in plugins.load().broken():
        advice.append(f"Plugin {plugin.name} is broken: {plugin.error}")
    hardware: dict[str, str] = {"processors": str(os.cpu_count())}
    if packages["train"].get("torch"):
        from ftp_plugins.commands.torch_doctor import devices

        hardware |= devices(bool(packages["qlora"].get("bitsandbytes")))
    return {
        "ftp": ftp.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "hardware": hardware,
        "advice": advice or ["Everything is installed."],
    }


def _packages() -> dict[str, dict[str, str | None]]:
    """Return the versions of what each extra brings, without what an earlier one has; None for a missing package."""
    import importlib.metadata

    from ftp.packages import extras_of

    brought = extras_of("ftp-finetune")
    found: dict[str, dict[str, str | None]] = {}
    seen: set[str] = set()
    for extra in EXTRAS:
        found[extra] = {}
        for name in sorted(brought.get(extra, set()) - seen):
            try:
                found[extra][name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                found[extra][name] = None
        seen |= brought.get(extra, set())
    return found
