"""Component and one small abstract base per kind: the contract."""

from ftp.components.component import Component
from ftp.components.engines import Engine, EngineWork
from ftp.components.evaluation import BringsEvals, Evaluator, MeasuresModel, Reporter, Weighted
from ftp.components.exports import Exporter, ExportJob
from ftp.components.kinds import KINDS, kind_of, unfinished
from ftp.components.launching import Launch, Launcher
from ftp.components.models import Adapter, Loader, LoadsStructure, LoadsTokenizer
from ftp.components.rows import Curator, Formatter
from ftp.components.training import Trainer, TrainingJob, Watcher

__all__ = [
    "KINDS",
    "Adapter",
    "BringsEvals",
    "Component",
    "Curator",
    "Engine",
    "EngineWork",
    "Evaluator",
    "ExportJob",
    "Exporter",
    "Formatter",
    "Launch",
    "Launcher",
    "Loader",
    "LoadsStructure",
    "LoadsTokenizer",
    "MeasuresModel",
    "Reporter",
    "Trainer",
    "TrainingJob",
    "Watcher",
    "Weighted",
    "kind_of",
    "unfinished",
]
