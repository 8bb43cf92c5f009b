"""Runs commands on damaged runs, checkpoints, adapters, models and GGUF files, and counts how they end.

    python tests/runs/mutator.py --count 120

makes the specimens with the `ftp` on the path, damages one of them for each seed from 0 to 119, runs on the copy what
reads it, and prints how many of these mutants ended in a message (exit code 2), worked (0), ended in a traceback, hung
or wrote outside of the run: in all, by what was damaged and by command. The same seeds are the same damages, so two
versions of FTP are compared by running this file with the PYTHONPATH of each. `--what` picks what is damaged; Ctrl-C
ends it with the totals so far.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import yaml
from damages import damage_gguf, damage_model, damage_part, damage_run
from specimens import Specimens, make, recipe_of, write_data

SECONDS = 100
"""The longest that a command may take on a small specimen."""
MEMORY = 12 * 2**30
"""Bytes of address space that a command may take; a message or MemoryError ends what wants more."""
KINDS = ("run", "adapter", "checkpoint", "model", "gguf")
WORSE = ("fine", "message", "other code", "traceback", "hang", "written outside", "killed")
"""How a mutant may end, from good to bad; it counts as the worst of its commands."""


class Ending(NamedTuple):
    """How a command ended."""

    damage: str
    command: str
    how: str
    """`code 0`, `code 2`, …; `hang`; `written outside`; or the kind of the exception that escaped."""
    said: str

    @property
    def outcome(self) -> str:
        if self.how.startswith("code "):
            if "Traceback (most recent call last)" in self.said:
                return "traceback"
            return {"code 0": "fine", "code 2": "message"}.get(self.how, "other code")
        return self.how if self.how in WORSE else "traceback"

    @property
    def is_bad(self) -> bool:
        return self.outcome not in ("message", "fine")


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


def on_a_copy(specimens: Specimens, place: Path, seed: int, kind: str = "", seconds: float = SECONDS) -> list[Ending]:
    """Damage a copy of a specimen and return how the commands end that read it.

    The last ending is about what the commands wrote outside of the copy.

    Args:
        kind: one of KINDS; without one the seed decides.
    """
    chance = random.Random(seed)
    kind = kind or chance.choice((*["run"] * 5, *KINDS[1:]))
    (place / "outside").mkdir(parents=True)
    (place / "outside" / "victim").write_text("{}")
    prepare = _a_model if kind in ("model", "gguf") else _a_run
    what, commands = prepare(specimens, place, kind, chance)
    before = _listing(place / "outside")
    endings = []
    for command in commands:
        how, said = outcome(command, place, seconds)
        endings.append(Ending(f"{seed}: {kind}: {what}", command[0], how, said))
    if _listing(place / "outside") != before:
        endings.append(Ending(f"{seed}: {kind}: {what}", "all", "written outside", ""))
    return endings


def _a_run(specimens: Specimens, place: Path, kind: str, chance: random.Random) -> tuple[str, list[list[str]]]:
    is_finished = kind == "adapter" or (kind == "run" and chance.random() < 0.67)
    source = specimens.finished if is_finished else specimens.interrupted
    run = place / "runs" / source.parent.name / source.name
    shutil.copytree(source, run, symlinks=True)
    parts = {"adapter": "model", "checkpoint": "checkpoints"}
    what = damage_part(run, parts[kind], chance) if kind in parts else damage_run(run, chance)
    commands = [["runs", "--runs", str(place / "runs")]]
    if not is_finished:
        return what, [*commands, ["resume", str(run)]]
    commands += [["report", str(run)], ["compare", str(specimens.finished), str(run)]]
    return what, commands + ([["eval", str(run)]] if kind == "adapter" or chance.random() < 0.3 else [])


def _a_model(specimens: Specimens, place: Path, kind: str, chance: random.Random) -> tuple[str, list[list[str]]]:
    write_data(place)
    if kind == "model":
        shutil.copytree(specimens.model, place / "model")
        block = {"use": "huggingface", "id": "./model", "device": "cpu"}
        what = damage_model(place / "model", chance)
    else:
        shutil.copy(specimens.gguf, place / "model.gguf")
        block = {"use": "gguf", "file": "model.gguf", "device": "cpu"}
        what = damage_gguf(place / "model.gguf", chance)
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(block)))
    return what, [["check", "recipe.yaml"], ["run", "recipe.yaml"]]


def _listing(place: Path) -> list[tuple[str, bytes]]:
    return [(str(file), file.read_bytes() if file.is_file() else b"") for file in sorted(place.rglob("*"))]


# --- the count --------------------------------------------------------------------------------------------------------


def in_a_process(specimens: Specimens, seed: int, kind: str, seconds: float) -> list[Ending]:
    """Return the endings of a mutant that is tried in a process of its own, under a limit of memory."""
    with tempfile.TemporaryDirectory() as place:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            endings = on_a_copy(specimens, Path(place, "mutant"), seed, kind, seconds)
            Path(place, "endings").write_text(json.dumps(endings))
            os._exit(0)
        deadline = time.monotonic() + 5 * seconds
        while (done := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        if done[0] == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return [Ending(f"{seed}: {kind or 'any'}", "process", "hang", "no signal was heard")]
        if done[1] != 0:
            return [Ending(f"{seed}: {kind or 'any'}", "process", "killed", f"status {done[1]}")]
        return [Ending(*ending) for ending in json.loads(Path(place, "endings").read_text())]


def main() -> None:
    """Count how commands end on damaged copies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--what", choices=KINDS, default="", help="damage these alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="after which a command hangs")
    parser.add_argument("--verbose", action="store_true", help="show where each bad ending is from")
    given = parser.parse_args()
    for name in ("transformers", "accelerate", "peft", "datasets", "trl", "matplotlib.pyplot", "pyarrow.parquet"):
        importlib.import_module(name)  # once, for all processes
    importlib.import_module("ftp_plugins.trainers.torch_sft")
    with tempfile.TemporaryDirectory() as home:
        os.environ.update(FTP_CACHE=f"{home}/cache", FTP_USER_DATA=f"{home}/data", HF_HUB_OFFLINE="1")
        specimens = make(Path(home), outcome)
        tried = []
        try:
            for seed in range(given.seed, given.seed + given.count):
                tried.append(endings := in_a_process(specimens, seed, given.what, given.seconds))
                for ending in filter(lambda ending: ending.is_bad, endings):
                    last = ending.said if given.verbose else ending.said.strip().split("\n")[-1][:150]
                    text = ascii(f"{ending.damage}: {ending.command}: {ending.how}: {last}")[1:-1]
                    print(text.replace("\\n", "\n"), flush=True)
        except KeyboardInterrupt:
            print("interrupted")
    print_totals(tried)


def print_totals(tried: list[list[Ending]]) -> None:
    """Print how many mutants and commands ended in which way."""
    mutants: Counter[tuple[str, str]] = Counter()
    commands: Counter[tuple[str, str]] = Counter()
    for endings in tried:
        worst = max(endings, key=lambda ending: WORSE.index(ending.outcome))
        mutants.update([(worst.damage.split(": ")[1], worst.outcome), ("all", worst.outcome)])
        commands.update((ending.command, ending.outcome) for ending in endings)
    print(f"{len(tried)} mutants, {sum(commands.values())} commands")
    for title, counts in (("mutants", mutants), ("commands", commands)):
        print(f"\n{title:12}" + "".join(f"{how:>17}" for how in WORSE))
        for row in sorted({row for row, _ in counts}):
            print(f"{row:12}" + "".join(f"{counts[row, how]:17}" for how in WORSE))


if __name__ == "__main__":
    main()
