"""The processes that train together: what they tell each other, and sums over all of them.

Weights and optimizer are whole in every process, and equal to the bit: each takes the gradient of its share of the rows
of an optimizer step, the gradients are summed, and every process takes the same step. So the first process can write
checkpoints alone, and a run can be resumed on another number of processes.

`current()` is this process alone unless a launcher has started it with others; every method works there too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ftp.errors import ProcessLate, ProcessLost
from ftp.lm.training.torch_stacks import Stacks, remove_empty

T = TypeVar("T")
SECONDS = "FTP_COLLECTIVE_SECONDS"
"""The environment variable with the longest time that a process waits for the others."""
TORCHRUN = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
    *("ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
)
BUCKET = 2**25
"""Numbers of gradients that are summed at once: 128 MB in float32."""
DECIDED = ("metric", "validation")
"""Events that watchers may answer with a decision, which every process has to follow."""


class Processes:
    """This process among those that train together.

    Args:
        rank: number of this process; the first one, 0, writes the run.
        count: of all processes.
        store: where they leave messages; None for one process alone.
        seconds: longest time that a process waits for the others in training.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Any = None, seconds: float = 600) -> None:
        self.rank, self.count, self.store, self.seconds = rank, count, store, seconds
        self.calls = 0
        self.stacks: Stacks | None = None

    @property
    def first(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    # --- before training and after it

    def exchange(self, name: str, value: str) -> list[str]:
        """Return the text that each process gives under a name; waits for all of them without a limit.

        Raises:
            ProcessLost: the first process, which keeps the messages, has ended.
        """
        if self.count == 1:
            return [value]
        keys = [f"{name}/{rank}" for rank in range(self.count)]
        with self._kept_by_the_first():
            self.store.set(keys[self.rank], value)
            while not self.store.check(keys):
                time.sleep(0.05)
            found = [self.store.get(key).decode() for key in keys]
            # The first process keeps the messages, so it leaves last.
            self.store.set(f"{name}/read/{self.rank}", "")
            while self.first and not self.store.check([f"{name}/read/{rank}" for rank in range(self.count)]):
                time.sleep(0.05)
        return found

    @contextlib.contextmanager
    def _kept_by_the_first(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            me = f"process {self.rank} of {self.count} on {socket.gethostname()}"
            raise ProcessLost(f"{me}: the first process has ended before the training") from error

    def wait_for_training(self) -> Path | None:
        """Wait until the first process calls for training; return the run's directory, or None when it needs nobody."""
        print(f"Process {self.rank} of {self.count} waits until the first one has prepared the training.", flush=True)
        with self._kept_by_the_first():
            while not self.store.check(["training"]):
                time.sleep(0.1)
            directory = self.store.get("training").decode()
        return Path(directory) if directory else None

    def start_training(self, directory: Path, emit: Callable[..., T]) -> Callable[..., T]:
        """Meet the other processes, and return `emit` as it serves all of them.

        Args:
            directory: of the run.
            emit: of a `TrainingJob`. Its answers in the first process are everybody's.
        """
        if self.first:
            remove_empty(directory / "stacks")
        if self.count == 1:
            return emit
        if self.first:
            self.store.set("training", str(directory.absolute()))
        self.stacks = Stacks(directory / "stacks", self.rank)
        self.store.set(f"who/{self.rank}", f"{socket.gethostname()} {os.getpid()}")
        # Without a limit: a process that still loads the model is not late, and one that fails ends the run.
        while not self.store.check([f"who/{rank}" for rank in range(self.count)]):
            time.sleep(0.1)
        self._connect()
        self.wait()

        def emit_for_all(event: str, **values: Any) -> T:
            answer = emit(event, **values)
            return self.from_first(lambda: answer) if event in DECIDED else answer

        return emit_for_all

    def _connect(self) -> None:
        """Set up the groups: one for gradients on the devices they are on, and one for messages."""
        limit = timedelta(seconds=self.seconds)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, store=PrefixStore("groups", self.store), rank=self.rank, world_size=self.count,
            timeout=limit,
        )  # fmt: skip
        self.messages = distributed.new_group(backend="gloo", timeout=limit)

    def end(self) -> None:
        """Let the other processes go, if they still wait, and leave the groups."""
        with contextlib.suppress(RuntimeError):  # the store may have gone
            if self.count > 1 and self.first and not self.store.check(["training"]):
                self.store.set("training", "")
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if self.stacks is not None:
            self.stacks.close()

    # --- in training

    def sum_gradients(self, weights: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradient of every weight that trains by its sum over all processes; a missing one counts as 0."""
        if self.count == 1:
            return
        by_kind: dict[Any, list[torch.nn.Parameter]] = {}
        for weight in weights:
            if weight.requires_grad:
                if weight.grad is None:
                    weight.grad = torch.zeros_like(weight)
                by_kind.setdefault((weight.grad.dtype, weight.grad.device), []).append(weight)
        with self._meeting("sum the gradients"):
            for alike in by_kind.values():
                for bucket in _buckets(alike):
                    flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
                    distributed.all_reduce(flat)
                    for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                        gradient.copy_(summed.view_as(gradient))

    def sums(self, *values: float) -> list[float]:
        """Return the sum of each value over all processes."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """Return the largest value that any process gives."""
        return int(self._reduced([value], distributed.ReduceOp.MAX)[0])

    def from_first(self, value: Callable[[], T]) -> T:
        """Return the value that the first process computes; the others compute nothing."""
        if self.count == 1:
            return value()
        box = [value() if self.first else None]
        with self._meeting("hear from the first process"):
            distributed.broadcast_object_list(box, src=0, group=self.messages)
        return box[0]  # type: ignore[return-value]

    def from_all(self, value: T) -> list[T]:
        """Return the value of every process, in the order of their numbers."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._meeting("exchange results"):
            distributed.all_gather_object(values, value, group=self.messages)
        return values

    def wait(self) -> None:
        """Wait until every process is here."""
        self.largest(0)

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with self._meeting("add numbers up"):
            distributed.all_reduce(numbers, operation, group=self.messages)
        return list(numbers.tolist())

    @contextlib.contextmanager
    def _meeting(self, purpose: str) -> Iterator[None]:
        """Turn a failure to meet the other processes into an error that names who is missing.

        Raises:
            ProcessLost: a process has ended.
            ProcessLate: one isn't there within the time limit; all have written their stacks.
        """
        self.calls += 1
        began = time.monotonic()
        try:
            self.store.set(f"call/{self.rank}", str(self.calls))
            yield
        except RuntimeError as error:  # what torch.distributed raises is one
            waited = time.monotonic() - began
            late = self._late() if waited >= 0.9 * self.seconds else []
            lost = f"process {self.rank} of {self.count} on {socket.gethostname()} could not {purpose}"
            if not late:
                raise ProcessLost(f"{lost}: another process has ended ({str(error).splitlines()[0][:200]})") from error
            assert self.stacks is not None
            self.stacks.write(late)
            names = ", ".join(f"process {rank} (pid {pid} on {host})" for rank, host, pid in late)
            raise ProcessLate(
                f"{lost}: {names} didn't answer within {self.seconds:g} s; the stacks of all processes are in "
                f"{self.stacks.directory}"
            ) from error

    def _late(self) -> list[tuple[int, str, int]]:
        """Return number, host and pid of the processes that have not come as far as this one."""
        found = []
        with contextlib.suppress(RuntimeError):  # the store may have gone
            for rank in range(self.count):
                known = self.store.check([f"call/{rank}"])
                if not known or int(self.store.get(f"call/{rank}")) < self.calls:
                    host, pid = self.store.get(f"who/{rank}").decode().split()
                    found.append((rank, host, int(pid)))
        return found


def _buckets(weights: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """Yield the gradients of weights in groups of about BUCKET numbers."""
    bucket: list[torch.Tensor] = []
    for weight in weights:
        assert weight.grad is not None
        bucket.append(weight.grad)
        if sum(gradient.numel() for gradient in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


_joined = Processes()


def current() -> Processes:
    """Return the processes that this one trains with."""
    return _joined


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Give the processes that a launcher has started together with this one, for the length of the block.

    The environment of torchrun is removed: libraries would take it for a request to distribute the training themselves.
    """
    global _joined
    seconds = float(os.environ.pop(SECONDS))
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = None
    if count > 1:
        limit = timedelta(seconds=max(seconds, 300))
        store, rank, count = next(rendezvous("env://", rank, count, timeout=limit))
    for name in TORCHRUN:
        os.environ.pop(name, None)
    _joined = Processes(rank, count, store, seconds)
    try:
        yield _joined
    finally:
        _joined.end()
        _joined = Processes()
