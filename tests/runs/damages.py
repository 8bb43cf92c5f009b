"""Damages to files, as a disk, a hand or a stranger may do them: the same for the same seed."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

TEXTS = (
    "../../../escape",
    "/etc/passwd",
    "\x1b]0;title\x07\x1b[31m",
    "a" * 5000,
    "\u202e",
    "",
    "nan",
    "-",
    "x/../../y",
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1e308, -0.0, float("nan"), float("inf")),
    *([], {}, [[]], [None], {"": None}, [1, "a"]),
    *TEXTS,
)
TEMPLATES = (
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
    "{% for a in range(90000) %}{{ messages[0]['content'] * 100000 }}{% endfor %}",
    "{{ 10 ** 10 ** 9 }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ messages[0]['content'].x.y }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for",
    "\x1b]0;title\x07{{ messages }}",
)

# --- each takes a file and says what it did ---------------------------------------------------------------------------


def flip_bits(file: Path, chance: random.Random) -> str:
    content = bytearray(file.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        if content:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)
    return "bits flipped"


def truncate(file: Path, chance: random.Random) -> str:
    content = file.read_bytes()
    file.write_bytes(content[: chance.choice((0, 1, len(content) // 2, max(0, len(content) - 1)))])
    return "truncated"


def garbage(file: Path, chance: random.Random) -> str:
    file.write_bytes(chance.choice((chance.randbytes(4000), b"\xff\xfe" * 50, b"\0" * 4096)))
    return "garbage"


def header(file: Path, chance: random.Random) -> str:
    content = bytearray(file.read_bytes())
    content[:8] = chance.choice((b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\0" * 8))
    file.write_bytes(content)
    return "absurd header"


def remove(file: Path, chance: random.Random) -> str:
    file.unlink()
    return "removed"


def link(file: Path, chance: random.Random) -> str:
    target = chance.choice(("/dev/zero", str(file), "/etc/passwd", "outside/victim", "nowhere"))
    file.unlink()
    if target == "outside/victim":
        target = str(outside_of(file) / "victim")
    file.symlink_to(target)
    return f"a link to {Path(target).name}"


def pipe(file: Path, chance: random.Random) -> str:
    file.unlink()
    os.mkfifo(file)
    return "a pipe"


def directory(file: Path, chance: random.Random) -> str:
    file.unlink()
    file.mkdir()
    return "a directory"


def deep(file: Path, chance: random.Random) -> str:
    file.write_text("[" * 100_000 + "]" * 100_000)
    return "nested deep"


def digits(file: Path, chance: random.Random) -> str:
    file.write_text('{"event": ' + "9" * 10_000 + "}")
    return "a number of 10,000 digits"


def value(file: Path, chance: random.Random) -> str:
    """Put something else in the place of a value of JSON, JSON lines or YAML, or take a key out."""
    text = file.read_text(encoding="utf-8")
    lines = file.suffix == ".jsonl"
    parsed = [json.loads(line) for line in text.splitlines()] if lines else yaml.safe_load(text)
    holder, key = chance.choice(list(_nodes(parsed)))
    if isinstance(holder, dict) and chance.random() < 0.25:
        del holder[key]
        what = f"{key} missing"
    elif isinstance(holder, dict) and chance.random() < 0.1:
        holder[chance.choice(TEXTS)] = holder.pop(key)
        what = f"{key} renamed"
    else:
        holder[key] = chance.choice(VALUES)
        what = f"{key} is {str(holder[key])[:20]!r}"
    if file.suffix == ".yaml":
        file.write_text(yaml.safe_dump(parsed, sort_keys=False), encoding="utf-8")
    else:
        file.write_text("".join(json.dumps(one) + "\n" for one in (parsed if lines else [parsed])), encoding="utf-8")
    return what


def _nodes(parsed: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in list(parsed.items()) if isinstance(parsed, dict) else list(enumerate(parsed)):
        yield parsed, key
        if isinstance(item, dict | list):
            yield from _nodes(item)


ON_ANY: tuple[Callable[[Path, random.Random], str], ...] = (
    *(flip_bits, flip_bits, truncate, truncate, garbage, header, remove, link, link, pipe, directory),
)
ON_TEXT = (value, value, value, value, value, value, value, deep, digits, *ON_ANY)


def outside_of(file: Path) -> Path:
    """The directory beside a copy where nothing may be written; a copy lies two levels below its root."""
    return next(parent for parent in file.parents if (parent / "outside").is_dir()) / "outside"


# --- of a run, of a model, of a GGUF file -----------------------------------------------------------------------------


def damage_run(run: Path, chance: random.Random) -> str:
    """Damage one file of a run, or a directory of it."""
    if chance.random() < 0.06:
        place = chance.choice([path for path in sorted(run.iterdir()) if path.is_dir()])
        shutil.rmtree(place)
        place.symlink_to(outside_of(run))
        return f"{place.name}: a link to a directory"
    skipped = ("report.html", "README.md", "recipe.yaml")
    files = [file for file in sorted(run.rglob("*")) if file.is_file() and file.name not in skipped]
    file = chance.choice(files)
    is_text = file.suffix in (".json", ".jsonl", ".yaml") and file.stat().st_size
    how = chance.choice(ON_TEXT if is_text and "model" not in file.parts else ON_ANY)
    return f"{file.relative_to(run)}: {how(file, chance)}"


def damage_part(run: Path, part: str, chance: random.Random) -> str:
    """Damage one file of `model/` or `checkpoints/` of a run."""
    file = chance.choice([file for file in sorted((run / part).rglob("*")) if file.is_file()])
    how = chance.choice(ON_TEXT if file.suffix == ".json" else ON_ANY)
    return f"{file.relative_to(run)}: {how(file, chance)}"


def damage_model(model: Path, chance: random.Random) -> str:
    """Damage one file of a model directory, its chat template, or the directory itself."""
    if (kind := chance.random()) < 0.25:
        number = chance.randrange(len(TEMPLATES))
        (model / "chat_template.jinja").write_text(TEMPLATES[number], encoding="utf-8")
        return f"chat template {number}"
    if kind < 0.35:
        name, target = chance.choice((("loop", "."), ("vocab.json", "vocab.json"), ("more.json", "/dev/zero")))
        (model / name).symlink_to(target)
        return f"{name}: a link to {target}"
    file = chance.choice([file for file in sorted(model.rglob("*")) if file.is_file()])
    how = chance.choice(ON_TEXT if file.suffix == ".json" else ON_ANY)
    return f"{file.name}: {how(file, chance)}"


def damage_gguf(file: Path, chance: random.Random) -> str:
    """Damage a GGUF file, mostly where its counts, names and shapes are."""
    if chance.random() < 0.4:
        return f"{file.name}: {chance.choice(ON_ANY)(file, chance)}"
    content = bytearray(file.read_bytes())
    start = chance.randrange(4, 4000)
    content[start : start + 8] = chance.choice((b"\xff" * 8, (2**40).to_bytes(8, "little"), b"\0" * 8, b"\xc3(" * 4))
    file.write_bytes(content)
    return f"{file.name}: bytes {start} to {start + 8}"
