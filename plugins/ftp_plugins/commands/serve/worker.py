"""The thread that decodes: it takes the requests of a server and sends the pieces of their answers back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ftp.errors import FtpError
from ftp.lm.answering import AnsweringModel
from ftp.lm.sampling import Piece, Request


class Full(Exception):  # noqa: N818 (an answer, and no defect)
    """As many requests are in the queue as may be."""


@dataclass(frozen=True)
class Started:
    """The prompt has been read and the request is in the queue."""

    prompt_tokens: int


@dataclass(frozen=True)
class Answered:
    """A piece of one of a request's answers."""

    number: int
    piece: Piece


@dataclass(frozen=True)
class Failed:
    """The request can't be answered."""

    error: Exception


Event = Started | Answered | Failed


@dataclass(eq=False)
class Job:
    """A request with one or more answers."""

    model: AnsweringModel
    prepare: Callable[[], Sequence[Request]]
    """Renders and tokenises the prompt: one request for each answer. Called in the worker's thread."""
    deliver: Callable[[Event], None]
    """Called in the worker's thread with all that becomes of it."""
    size: int = 1
    """How many answers."""
    cancelled: bool = False
    rows: list[Any] = field(default_factory=list)


class Worker(threading.Thread):
    """Decodes the requests of all models, those of one decoder in one batch.

    Args:
        most: answers that may be in progress or wait, together.
    """

    def __init__(self, most: int) -> None:
        super().__init__(name="decoder", daemon=True)
        self.most, self.pending = most, 0
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._jobs: list[Job] = []
        self._stopping = False

    def submit(self, job: Job) -> None:
        """Queue a request.

        Raises:
            Full: there is no place.
        """
        with self._lock:
            if self.pending + job.size > self.most:
                raise Full
            self.pending += job.size
        self._inbox.put(job)

    def cancel(self, job: Job) -> None:
        """End a request that nobody waits for; its place is free after the step in progress."""
        job.cancelled = True

    def stop(self) -> None:
        """End the thread when all requests are answered."""
        self._inbox.put(None)
        self.join()

    def run(self) -> None:
        while self._jobs or not self._stopping:
            self._take_new()
            decoders = {id(job.model.decoder): job.model.decoder for job in self._jobs}
            for decoder in decoders.values():
                self._step(decoder)
            for job in [job for job in self._jobs if job.cancelled]:
                self._end(job)
                job.model.decoder.drop_cancelled()

    def _take_new(self) -> None:
        """Take what is in the inbox; wait for it where there is nothing else to do."""
        while not self._inbox.empty() or (not self._jobs and not self._stopping):
            job = self._inbox.get()
            if job is None:
                self._stopping = True
                continue
            self._jobs.append(job)
            if not job.cancelled:
                self._begin(job)

    def _begin(self, job: Job) -> None:
        try:
            requests = job.prepare()
            for request in requests:
                job.rows.append(job.model.decoder.add(request))
        except Exception as error:  # what a template or a tokenizer raises is that request's alone
            self._fail(job, error)
        else:
            job.deliver(Started(len(requests[0].prompt)))

    def _step(self, decoder: Any) -> None:
        mine = [job for job in self._jobs if job.model.decoder is decoder]
        try:
            pieces = decoder.step()
        except Exception as error:  # too little memory, say: these requests are lost, and the server goes on
            decoder.clear()
            for job in mine:
                self._fail(job, error)
            return
        places = {id(row): (job, number) for job in mine for number, row in enumerate(job.rows)}
        for row, piece in pieces:
            job, number = places[id(row)]
            job.deliver(Answered(number, piece))
        for job in mine:
            if all(row.finish for row in job.rows):
                self._end(job)

    def _fail(self, job: Job, error: Exception) -> None:
        for row in job.rows:
            row.cancelled = True
        job.deliver(Failed(error))
        self._end(job)

    def _end(self, job: Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            for row in job.rows:
                row.cancelled = True
            with self._lock:
                self.pending -= job.size


def is_users_fault(error: Exception) -> bool:
    """Return whether another request would be answered: the template refused the messages, or they are too long."""
    return isinstance(error, FtpError)
