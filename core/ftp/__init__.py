"""FTP, Fine-Tuning with Plugins: the public names. How to use them: docs/write-a-plugin.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftp.components import (
        Adapter,
        Component,
        Curator,
        Evaluator,
        FilePath,
        Formatter,
        Loader,
        Reporter,
        Share,
        Trainer,
    )
    from ftp.data import Ledger
    from ftp.errors import DataError, FtpError, ModelError, RowError
    from ftp.hookspecs import hookimpl
    from ftp.stats import Interval, paired_difference, paired_metric, paired_ratio_difference, verdict
    from ftp.types import (
        Answer,
        Corpus,
        Evaluation,
        EvalView,
        Example,
        FinishedRun,
        LoadedModel,
        Message,
        Metric,
        ModelRequest,
        Quantization,
        Score,
        TokenLoss,
        TrainingJob,
        TrainResult,
    )

__version__ = "0.1.0"

_MODULES = {
    "ftp.components": (
        "Adapter Component Curator Evaluator FilePath Formatter Loader Reporter Share Trainer"
    ),
    "ftp.data": "Ledger",
    "ftp.errors": "DataError FtpError ModelError RowError",
    "ftp.hookspecs": "hookimpl",
    "ftp.stats": "Interval paired_difference paired_metric paired_ratio_difference verdict",
    "ftp.types": (
        "Answer Corpus Evaluation EvalView Example FinishedRun LoadedModel Message Metric ModelRequest Quantization "
        "Score TokenLoss TrainingJob TrainResult"
    ),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [  # noqa: PLE0604
    *_HOME,
    "__version__",
]


def __getattr__(name: str) -> Any:
    # A name is imported when it is first used: `ftp --help` needs none of them, and pydantic alone takes 0.1 s.
    if name not in _HOME:
        raise AttributeError(f"module 'ftp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
