"""Damages run directories as a disk, a hand or a stranger may, the same for the same seed, and runs commands on them.

By itself it counts how commands end: `python tests/runs/mutator.py --count 500 FINISHED_RUN INTERRUPTED_RUN`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

SECONDS = 100
"""The longest that a command may take on a damaged small run."""
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


class Ending(NamedTuple):
    """How a command ended."""

    damage: str
    command: str
    how: str
    """`code 0`, `code 2`, …; `hang`; or the kind of the exception that escaped."""
    said: str

    @property
    def is_bad(self) -> bool:
        return self.how not in ("code 0", "code 2")


# --- damages: each takes a file of a copy and says what it did ------------------------------------------------------


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


def damage(run: Path, chance: random.Random) -> str:
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


# --- commands on copies ----------------------------------------------------------------------------------------------


class Hang(BaseException):
    """A command that took too long; no handler of errors catches it."""


def outcome(arguments: list[str], where: Path, seconds: float = SECONDS) -> tuple[str, str]:
    """Run a command in this process and return how it ended, and what it said."""
    from ftp.cli import main

    def ring(number: int, frame: object) -> None:
        raise Hang

    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace", write_through=True)
    before, home = sys.argv, Path.cwd()
    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        os.chdir(where)
        sys.argv = ["ftp", *arguments]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
        how = "code 0"
    except SystemExit as exit:
        how = f"code {exit.code or 0}"
    except Hang:
        how = "hang"
    except BaseException as error:
        how = type(error).__name__
        said.write(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        sys.argv = before
        os.chdir(home)
    return how, said.buffer.getvalue().decode(errors="replace")


def on_a_copy(finished: Path, interrupted: Path, place: Path, seed: int) -> Iterator[Ending]:
    """Damage a copy of one of two runs and run on it what reads such a run.

    The last ending is about what the commands wrote outside of the run.
    """
    chance = random.Random(seed)
    source = chance.choice((finished, finished, interrupted))
    root = place / "runs"
    run = root / source.parent.name / source.name
    (place / "outside").mkdir(parents=True)
    (place / "outside" / "victim").write_text("{}")
    shutil.copytree(source, run, symlinks=True)
    what = f"{seed}: {'interrupted' if source == interrupted else 'finished'}: {damage(run, chance)}"
    before = _listing(place / "outside")
    commands = [["runs", "--runs", str(root)]]
    if source == interrupted:
        commands += [["resume", str(run)]]
    else:
        commands += [["report", str(run)], ["compare", str(finished), str(run)]]
        commands += [["eval", str(run)]] if chance.random() < 0.3 else []
    for command in commands:
        how, said = outcome(command, place)
        yield Ending(what, command[0], how, said)
    if _listing(place / "outside") != before:
        yield Ending(what, "all", "written outside", "")


def _listing(place: Path) -> list[tuple[str, bytes]]:
    return [(str(file), file.read_bytes() if file.is_file() else b"") for file in sorted(place.rglob("*"))]


def main() -> None:
    """Count how commands end, each on a copy of its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("finished", type=Path)
    parser.add_argument("interrupted", type=Path)
    given = parser.parse_args()
    for name in ("transformers", "accelerate", "peft", "datasets", "trl", "matplotlib.pyplot", "pyarrow.parquet"):
        importlib.import_module(name)  # once, for all processes
    importlib.import_module("ftp_plugins.trainers.torch_sft")
    endings: Counter[tuple[str, str]] = Counter()
    for seed in range(given.seed, given.seed + given.count):
        with tempfile.TemporaryDirectory() as place:
            child = os.fork()
            if child == 0:
                with Path(place, "endings").open("w") as file:
                    for ending in on_a_copy(given.finished, given.interrupted, Path(place), seed):
                        file.write(json.dumps(ending) + "\n")
                        file.flush()
                os._exit(0)
            deadline = time.monotonic() + 4 * SECONDS
            while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.02)
            if done[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            for line in Path(place, "endings").read_text().splitlines():
                ending = Ending(*json.loads(line))
                endings[ending.command, ending.how] += 1
                if ending.is_bad:
                    print(ending.damage, ending.command, ending.how, ending.said.strip().split("\n")[-1][:150])
            if done[0] == 0 or done[1] != 0:
                endings["process", "hang" if done[0] == 0 else f"signal {done[1]}"] += 1
                print(seed, "process", done)
    for (command, how), count in sorted(endings.items()):
        print(f"{command:10} {how:30} {count}")


if __name__ == "__main__":
    main()
