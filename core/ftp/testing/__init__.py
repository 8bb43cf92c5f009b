"""The kit to test plugins with: pytest fixtures, and `assert_component_ok`, which every component should pass.

pytest finds the fixtures by itself wherever FTP is installed. How to use them: docs/test-a-plugin.md.
"""

from __future__ import annotations

from ftp.testing.conformance import answers_view, assert_component_ok
from ftp.testing.fixtures import (
    Install,
    MakeAnswers,
    WriteRecipe,
    ftp_answers,
    ftp_hub,
    ftp_install,
    ftp_recipe,
    ftp_tiny_model,
)

__all__ = [
    "Install",
    "MakeAnswers",
    "WriteRecipe",
    "answers_view",
    "assert_component_ok",
    "ftp_answers",
    "ftp_hub",
    "ftp_install",
    "ftp_recipe",
    "ftp_tiny_model",
]
