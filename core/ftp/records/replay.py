"""Replay: replies of services are taken from the records of earlier calls."""

from __future__ import annotations

import os

REPLAY = "FTP_REPLAY"


def is_replay() -> bool:
    """Return whether services are off: the user gave `--replay`, or set FTP_REPLAY to anything but 0.

    A component that calls a service then takes every reply from the records of earlier calls, and fails without one.
    """
    return os.environ.get(REPLAY, "") not in ("", "0")
