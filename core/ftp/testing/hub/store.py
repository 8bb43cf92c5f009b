"""The repositories of the hub: their commits, branches and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "hf_loopback"
"""What has to be sent as the token to write, and to read a gated repository."""
LARGE = (".safetensors", ".bin", ".parquet")
"""What is uploaded by Git LFS."""


@dataclass
class Repository:
    """A model or a data set with its history."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of each commit, by path."""
    names: dict[str, str] = field(default_factory=dict)
    """The commit that each branch and tag is at."""
    private: bool = False
    """Whether it was created as one that only its owner sees. Everybody may read it here."""
    gated: bool = False
    """Whether only those with the token may read it."""

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put these files in the place of all others and return the commit's hash."""
        listing = [(path, hashlib.sha256(content).hexdigest()) for path, content in sorted(files.items())]
        sha = hashlib.sha1(json.dumps([listing, len(self.commits)]).encode()).hexdigest()
        self.commits[sha], self.names[branch] = dict(files), sha
        return sha

    def at(self, revision: str) -> str | None:
        """Return the commit of a branch, a tag or a commit's hash; None if there is none."""
        return self.names.get(revision) or (revision if revision in self.commits else None)


class Store:
    """All repositories, and what is asked of them."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        """By `models/ORG/NAME` and `datasets/ORG/NAME`."""
        self.requests: list[str] = []
        """What was asked, as `GET /path`, in order."""
        self.cut: dict[str, int] = {}
        """How many more downloads of a file, by its path in the repository, break off half way."""
        self.refused_uploads = 0
        """How many more uploads by LFS are refused."""
        self.uploads: dict[str, bytes] = {}
        """What came by LFS, by SHA-256."""

    def add(self, id: str, directory: Path, *, kind: str = "models", branch: str = "main") -> str:
        """Commit the files of a directory to a repository, which is made where it isn't there; return the hash."""
        files = {str(f.relative_to(directory)): f.read_bytes() for f in sorted(directory.rglob("*")) if f.is_file()}
        return self.repositories.setdefault(f"{kind}/{id}", Repository()).commit(files, branch)
