"""Formatters: they turn rows of a source into examples."""

from __future__ import annotations

import ftp
from ftp_plugins.formatters.auto import Auto
from ftp_plugins.formatters.chat import Messages, ShareGPT
from ftp_plugins.formatters.pairs import Alpaca, Instruct, PromptCompletion
from ftp_plugins.formatters.preference import Feedback, Preference
from ftp_plugins.formatters.text import Text


@ftp.hookimpl
def ftp_formatters() -> dict[str, type[ftp.Formatter]]:
    return {
        "instruct": Instruct,
        "alpaca": Alpaca,
        "sharegpt": ShareGPT,
        "messages": Messages,
        "prompt_completion": PromptCompletion,
        "text": Text,
        "preference": Preference,
        "feedback": Feedback,
        "auto": Auto,
    }
