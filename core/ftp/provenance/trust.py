"""What a run may do on this machine: nothing beyond reading and reckoning that its user has not agreed to.

A run directory can come from anybody, and its recipe names Python files to import, variables of the environment,
addresses to send things to, and models that bring code. A run that is made here is signed: `consent.json` lists what
it may do, with an HMAC-SHA256 (RFC 2104) under a key that lies outside of all runs. A run without it, or one that was
changed since, does these things only with its user's consent.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from ftp.components import Component
from ftp.errors import RunError
from ftp.files import file_digest, read_plain_file, user_data
from ftp.guard import call
from ftp.recipe.model import Recipe, components_of
from ftp.runs.directory import RunDirectory

FILE = "consent.json"
KEY_BYTES = 32


class Consent(TypedDict):
    """consent.json."""

    may: list[str]
    hmac: str


def of_files(files: Iterable[Path]) -> list[str]:
    """List what importing Python files as plugins would do: run each file, identified by its content."""
    return [f"run the Python file {file} (SHA-256 {file_digest(file)})" for file in files if file.is_file()]


def of_recipe(recipe: Recipe | Component | Sequence[Component], *, own: bool = False) -> list[str]:
    """List what the components of a recipe would do that needs consent, each with its name.

    Args:
        own: whether the recipe is the user's own, which may do most things.
    """
    return [
        f"{component.used_as}: {what}"
        for _, component in components_of(recipe)
        for what in call(Sequence, component.needs_consent_in_recipe if own else component.needs_consent)
    ]


def allow(directory: RunDirectory, needed: Sequence[str]) -> str:
    """Write down that this machine's user lets a run do these things too, with the recipe that it has now.

    Returns:
        Why that can't be kept, in words; empty where it is.
    """
    if not needed:
        return ""
    try:
        agreed = sorted({*_agreed(directory), *needed})
        directory.write_json(FILE, {"may": agreed, "hmac": _hmac(directory, agreed, _key())})
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return ""


def missing(directory: RunDirectory, needed: Sequence[str]) -> list[str]:
    """Return what of `needed` the user of this machine has not agreed to for this run.

    Raises:
        RunError: consent.json is damaged.
    """
    agreed = _agreed(directory) if needed else []
    return [what for what in needed if what not in agreed]


def _agreed(directory: RunDirectory) -> list[str]:
    found: Consent | None = directory.read_json(FILE, Consent)
    if found is None:
        return []
    try:
        expected = _hmac(directory, found["may"], _key())
        return found["may"] if hmac.compare_digest(found["hmac"].encode(), expected.encode()) else []
    except (OSError, UnicodeEncodeError):  # without a key nothing is signed
        return []


def _hmac(directory: RunDirectory, may: Sequence[str], key: bytes) -> str:
    recipe = (directory.read_text("resolved.yaml") or "").encode()
    text = json.dumps([may, hashlib.sha256(recipe).hexdigest()])
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """Return this user's key; it is made when first needed, readable by the user alone."""
    file = user_data() / "run.key"
    try:
        key = read_plain_file(file, KEY_BYTES)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(aside, file)  # fails where another process was first; its key counts
        except FileExistsError:
            pass
        finally:
            aside.unlink()
        key = read_plain_file(file, KEY_BYTES)
    if len(key) != KEY_BYTES:
        raise RunError(f"{file}: not a key of {KEY_BYTES} bytes; remove it, and a new one is made") from None
    return key
