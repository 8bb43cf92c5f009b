"""Limits for chat templates: they come with models, are programs, and may run without end or write without end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ftp.errors import ModelError

SECONDS = 20.0
"""CPU time that writing out a batch of rows may take; usual templates take a fifth of a millisecond a row."""
MOST_MEMORY = 4 * 2**30
"""Bytes by which the process may grow meanwhile."""
MOST_CHARACTERS = 2**26
"""The longest text that a conversation may become."""
MOST_SOURCE = 2**20
"""The longest source of a template."""
ADVICE = "set `chat_template:` on the model to another one"
LOOK_EVERY = 0.05
"""Seconds between two looks of the watchdog."""


class _Over(BaseException):
    pass


def check_source(template: str) -> None:
    """Refuse a template whose source alone would take without end.

    Raises:
        ModelError: it is too long, is no template, or raises to a power, which Jinja works out when it compiles.
    """
    import jinja2

    if len(template) > MOST_SOURCE:
        raise ModelError(f"the chat template has {len(template):,} characters, more than {MOST_SOURCE:,}")
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"]).parse(
            template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        )
        powers = any(parsed.find_all(jinja2.nodes.Pow))
    except jinja2.TemplateError:  # its tags may be another library's; whoever compiles it says what is wrong
        return
    except RecursionError:
        raise ModelError("the chat template is nested too deep") from None
    if powers:
        raise ModelError("the chat template raises to a power (`**`), which no layout of a conversation needs")


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """End what this thread does in the block when it takes too much time or memory.

    A second thread looks now and then, and has the exception raised in this one at its next step. So a single step in
    C can't be ended; those that take long are refused by `check_source`.

    Raises:
        ModelError: a limit was passed, or memory ran out.
    """
    watchdog = _Watchdog()
    watchdog.start()
    try:
        yield
    except _Over:
        raise ModelError(f"the chat template {watchdog.why}; {ADVICE}") from None
    except (RecursionError, MemoryError) as error:
        what = "calls itself without end" if isinstance(error, RecursionError) else "takes more memory than there is"
        raise ModelError(f"the chat template {what}; {ADVICE}") from None
    finally:
        watchdog.end()


class _Watchdog(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.watched, self.why = threading.get_ident(), ""
        self.clock = time.pthread_getcpuclockid(self.watched) if hasattr(time, "pthread_getcpuclockid") else None
        self.began, self.grown_from = self.seconds(), _resident()
        self.lock, self.ended = threading.Lock(), threading.Event()

    def seconds(self) -> float:
        return time.clock_gettime(self.clock) if self.clock is not None else time.monotonic()

    def run(self) -> None:
        while not self.ended.wait(LOOK_EVERY):
            if self.seconds() - self.began > SECONDS:
                self.why = f"ran for {SECONDS:g} seconds without an end"
            elif _resident() - self.grown_from > MOST_MEMORY:
                self.why = f"took more than {MOST_MEMORY >> 30} GB"
            if self.why:
                with self.lock:
                    if not self.ended.is_set():
                        _raise_in(self.watched, _Over)
                return

    def end(self) -> None:
        """Let go; what was to be raised and was not yet, is not."""
        with self.lock:
            self.ended.set()
            _raise_in(self.watched, None)


def _raise_in(thread: int, what: type[BaseException] | None) -> None:
    target = ctypes.c_ulong(thread)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(what) if what else None)


def _resident() -> int:
    """Return the bytes of memory that this process holds, where the system tells it cheaply; else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
