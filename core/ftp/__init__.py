"""FTP, Fine-Tuning with Plugins: the public names. How to use them: docs/write-a-plugin.md."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftp.components import (
        Adapter,
        BringsEvals,
        Component,
        Curator,
        Engine,
        Evaluator,
        Exporter,
        ExportJob,
        Formatter,
        Launch,
        Launcher,
        Loader,
        LoadsStructure,
        LoadsTokenizer,
        MeasuresModel,
        Reporter,
        Trainer,
        TrainingJob,
        Watcher,
        Weighted,
    )
    from ftp.data.examples import Corpus
    from ftp.data.ledger import Ledger
    from ftp.errors import DataError, FtpError, Interrupted, LaunchError, ModelError, ProcessLate, ProcessLost, RowError
    from ftp.hookspecs import hookimpl
    from ftp.options import AnswerOptions, FilePath, Proof, Share
    from ftp.stages.trained_model import TrainedModel, load
    from ftp.stats.clusters import clusters_of
    from ftp.stats.differences import paired_difference, paired_ratio_difference
    from ftp.stats.paired import holm, on_subsets, paired_metric
    from ftp.stats.seeds import across_seeds
    from ftp.stats.verdicts import verdict, verdict_in_words
    from ftp.stats.win_rates import correlation, length_controlled_win_rate, order_consistency, win_rate
    from ftp.types import (
        Answer,
        Evaluation,
        EvalView,
        Example,
        Exported,
        FinishedRun,
        Interval,
        LoadedModel,
        LoadedTokenizer,
        Message,
        Metric,
        ModelRequest,
        Parity,
        Quantization,
        RollBack,
        Score,
        Stop,
        TokenLoss,
        TrainResult,
        Warn,
        Weights,
    )

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "Answer",
    "AnswerOptions",
    "BringsEvals",
    "Component",
    "Corpus",
    "Curator",
    "DataError",
    "Engine",
    "EvalView",
    "Evaluation",
    "Evaluator",
    "Example",
    "ExportJob",
    "Exported",
    "Exporter",
    "FilePath",
    "FinishedRun",
    "Formatter",
    "FtpError",
    "Interrupted",
    "Interval",
    "Launch",
    "LaunchError",
    "Launcher",
    "Ledger",
    "LoadedModel",
    "LoadedTokenizer",
    "Loader",
    "LoadsStructure",
    "LoadsTokenizer",
    "MeasuresModel",
    "Message",
    "Metric",
    "ModelError",
    "ModelRequest",
    "Parity",
    "ProcessLate",
    "ProcessLost",
    "Proof",
    "Quantization",
    "Reporter",
    "RollBack",
    "RowError",
    "Score",
    "Share",
    "Stop",
    "TokenLoss",
    "TrainResult",
    "TrainedModel",
    "Trainer",
    "TrainingJob",
    "Warn",
    "Watcher",
    "Weighted",
    "Weights",
    "across_seeds",
    "clusters_of",
    "correlation",
    "holm",
    "hookimpl",
    "length_controlled_win_rate",
    "load",
    "on_subsets",
    "order_consistency",
    "paired_difference",
    "paired_metric",
    "paired_ratio_difference",
    "verdict",
    "verdict_in_words",
    "win_rate",
]

_HOME = {
    "ftp.components": (
        "Adapter BringsEvals Component Curator Engine Evaluator Exporter ExportJob Formatter Launch Launcher "
        "Loader LoadsStructure LoadsTokenizer "
        "MeasuresModel Reporter Trainer TrainingJob Watcher Weighted"
    ),
    "ftp.data.examples": "Corpus",
    "ftp.data.ledger": "Ledger",
    "ftp.errors": "DataError FtpError Interrupted LaunchError ModelError ProcessLate ProcessLost RowError",
    "ftp.hookspecs": "hookimpl",
    "ftp.options": "AnswerOptions FilePath Proof Share",
    "ftp.stages.trained_model": "TrainedModel load",
    "ftp.stats.clusters": "clusters_of",
    "ftp.stats.differences": "paired_difference paired_ratio_difference",
    "ftp.stats.paired": "holm on_subsets paired_metric",
    "ftp.stats.seeds": "across_seeds",
    "ftp.stats.verdicts": "verdict verdict_in_words",
    "ftp.stats.win_rates": "correlation length_controlled_win_rate order_consistency win_rate",
    "ftp.types": (
        "Answer EvalView Evaluation Example Exported FinishedRun Interval LoadedModel LoadedTokenizer Message Metric "
        "ModelRequest Parity Quantization RollBack Score Stop TokenLoss TrainResult Warn Weights"
    ),
}


def home_of(name: str) -> str:
    """Return the module that a public name is defined in; empty for any other name."""
    return next((module for module, names in _HOME.items() if name in names.split()), "")


def __getattr__(name: str) -> Any:
    # A name is imported when it is first used: `ftp --help` needs none of them, and pydantic alone takes 0.1 s.
    if module := home_of(name):
        value = getattr(importlib.import_module(module), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'ftp' has no attribute {name!r}")
