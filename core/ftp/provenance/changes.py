"""What differs between two locks, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftp.errors import RunError
from ftp.files import finite
from ftp.provenance.fingerprints import BASE_MODEL, fingerprint_of
from ftp.runs.directory import RunDirectory
from ftp.yaml_source import Path_, dotted, shown_value


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """List the differences between two locks, a line for each recipe key, file, package and plugin.

    A package that only one of them names is not a change: which packages are named depends on the components and on the
    release that wrote the lock.
    """
    now = json.loads(json.dumps(finite(now), default=str))  # as the other was written and read
    found = [f"recipe: {what}" for what in differences(before.get("recipe", {}), now["recipe"])]
    old, new = before.get("data", {}), now["data"]
    for file in sorted({*old, *new}):
        if old.get(file) != new.get(file):
            what = "new" if file not in old else "no longer read" if file not in new else "its content has changed"
            found.append(f"data: {file}: {what}")
    loaded = fingerprint_of(before)
    if loaded and now.get(BASE_MODEL) and loaded != now[BASE_MODEL]:
        found.append("model: its files have changed")
    known = {name: version for name, version in before.get("packages", {}).items() if name in now["packages"]}
    found += [f"packages: {what}" for what in differences(known, {name: now["packages"][name] for name in known})]
    found += [f"plugins: {what}" for what in differences(before.get("plugins", {}), now["plugins"])]
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield `train.epochs: 3 -> 5` for each value that differs between two nested blocks."""
    before, after = dict(_leaves(old, ())), dict(_leaves(new, ()))
    for path in (*before, *(path for path in after if path not in before)):
        if path not in before or path not in after or before[path] != after[path]:
            values = (shown_value(side[path]) if path in side else "(none)" for side in (before, after))
            yield f"{dotted(path)}: {' -> '.join(values)}"


def _leaves(value: Any, path: Path_) -> Iterator[tuple[Path_, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path and (not items or not value):
        yield path, value
    for key, item in items:
        yield from _leaves(item, (*path, key))


def changed(directory: RunDirectory, found: Sequence[str]) -> RunError:
    """Return the error for resuming a run whose inputs have changed."""
    return RunError(
        "\n".join(
            (
                f"{directory.path}: the inputs of this run have changed since it began:",
                *(f"  {what}" for what in found),
                f"`ftp run --new` begins a new run; `ftp resume {directory.path} --anyway` resumes this one.",
            )
        )
    )
