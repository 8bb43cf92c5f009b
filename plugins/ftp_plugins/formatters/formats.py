"""The built-in formats by name: every built-in formatter that formats rows by itself."""

from __future__ import annotations

import ftp
from ftp_plugins.formatters.chat import Messages, ShareGPT
from ftp_plugins.formatters.pairs import Alpaca, Instruct, PromptCompletion
from ftp_plugins.formatters.preference import Feedback, Preference
from ftp_plugins.formatters.text import Text

FORMATS: dict[str, type[ftp.Formatter]] = {
    "instruct": Instruct,
    "alpaca": Alpaca,
    "sharegpt": ShareGPT,
    "messages": Messages,
    "prompt_completion": PromptCompletion,
    "text": Text,
    "preference": Preference,
    "feedback": Feedback,
}
