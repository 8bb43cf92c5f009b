"""Watchers: they see every event of a training run, and may stop it, roll it back or log it elsewhere."""

from __future__ import annotations

import ftp
from ftp_plugins.watchers.budget import Budget
from ftp_plugins.watchers.divergence import Divergence
from ftp_plugins.watchers.early_stopping import EarlyStopping
from ftp_plugins.watchers.mlflow import MLflow
from ftp_plugins.watchers.over_optimisation import OverOptimisation
from ftp_plugins.watchers.reward_hacking import RewardHacking
from ftp_plugins.watchers.tensorboard import TensorBoard
from ftp_plugins.watchers.trackio import Trackio
from ftp_plugins.watchers.val_valley import ValValley
from ftp_plugins.watchers.wandb import WeightsAndBiases


@ftp.hookimpl
def ftp_watchers() -> dict[str, type[ftp.Watcher]]:
    return {
        "val_valley": ValValley,
        "divergence": Divergence,
        "early_stopping": EarlyStopping,
        "over_optimisation": OverOptimisation,
        "budget": Budget,
        "reward_hacking": RewardHacking,
        "tensorboard": TensorBoard,
        "wandb": WeightsAndBiases,
        "mlflow": MLflow,
        "trackio": Trackio,
    }
