"""Job files for clusters: the command that each machine runs, and handing the file to the cluster's client."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

import ftp
from ftp.files import new_file


def arguments_elsewhere(job: ftp.Launch) -> list[str]:
    """Return the arguments of `ftp` as they hold in a copy of this directory; absolute paths outside of it stay.

    Raises:
        LaunchError: one leads out of this directory, or the command can't be repeated after a failure.
    """
    if list(job.command) != list(job.again):
        raise ftp.LaunchError("--new: a job that is started again after a failure would begin anew; use another --runs")
    here, found = Path.cwd(), []
    for argument in job.again[3:]:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        path = Path(value)
        if path.parts[:1] == ("..",):
            raise ftp.LaunchError(f"{value}: leads out of this directory, which is all that the job's machines have")
        inside = path.is_absolute() and path.is_relative_to(here)
        found.append(f"{option}{equals}{path.relative_to(here) if inside else value}")
    return found


def torchrun(job: ftp.Launch, variables: Mapping[str, str], restarts: int, *, gpus: bool) -> str:
    """Return the shell command that starts the processes of one machine of several by torchrun.

    Args:
        variables: of the shell, for `nodes`, `processes`, `node_rank`, `address` and `port` of the first machine.
        gpus: whether each process gets a GPU of its own.
    """
    v = variables
    command = [
        "python -m torch.distributed.run",
        f"--nnodes={v['nodes']} --nproc-per-node={v['processes']} --max-restarts={restarts}",
        # The c10d rendezvous survives a restart, which a fixed master port doesn't.
        f"--rdzv-backend=c10d --rdzv-endpoint={v['address']}:{v['port']} --rdzv-id={shlex.quote(job.name)}",
        f"--rdzv-conf=is_host=$(({v['node_rank']} == 0))",
        *(["--virtual-local-rank"] if gpus else []),
        f"-m ftp {shlex.join(arguments_elsewhere(job))}",
    ]
    return " \\\n  ".join(command)


def write_job(file: Path, content: Mapping[str, Any], heading: str) -> None:
    """Write a job file as YAML.

    Args:
        heading: the comment at its top.
    """
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    with new_file(file, shared=True) as aside:
        aside.write_text(f"# {heading}\n{text}", encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as a block."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def hand_over(job: ftp.Launch, file: Path, command: Sequence[str], then: Sequence[str], *, submit: bool) -> int:
    """Run the client's command where the client is installed, and say what to do next; return its exit code.

    Args:
        then: what to show after the submission: how to follow the job, and how to stop it.
        submit: whether to run the command at all.
    """
    client = shutil.which(command[0])
    if client is None or not submit:
        why = f" There is no {command[0]} on this machine." if submit else ""
        job.note(f"{file} is written.{why} Submit it with:")
        job.note("\n".join([f"  {shlex.join(command)}", *then]))
        return 0
    job.note(f"{file} is written. Submitting it: {shlex.join(command)}")
    code = subprocess.run([client, *command[1:]], check=False).returncode
    if code:
        raise ftp.LaunchError(f"{shlex.join(command)} ended with code {code}; {file} is kept")
    job.note("\n".join(then))
    return 0


def job_name(name: str) -> str:
    """Return a run's name as clusters take one: lower case letters, digits and hyphens, 40 characters at most."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower()).strip("-")
    plain = plain[:40].rstrip("-") or "run"
    return plain if plain[0].isalpha() else f"run-{plain}"[:40]
