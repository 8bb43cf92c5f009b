"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import PrivateAttr

from ftp_plugins.watchers.tracking import Tracker

TAG = "ftp.run"


class MLflow(Tracker):
    """Logs losses, rates, scores and watchers' answers to MLflow. A resumed run resumes its MLflow run.

    Without a server they go into the run's own `tracking/mlflow/mlflow.db`. Repeated steps are in MLflow
    twice, since it deletes no metric.
    """

    requires: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy", "alembic")

    uri: str | None = None
    """The tracking server or database. Default: MLFLOW_TRACKING_URI, else a SQLite file in the run directory."""
    experiment: str | None = None
    """The experiment. Default: the run's name."""

    _client: Any = PrivateAttr(default=None)
    _run: str = PrivateAttr(default="")
    """The id of the run there."""
    _last: Any = PrivateAttr(default=None)
    """The newest batch being sent."""

    def needs_consent(self) -> Sequence[str]:
        return [f"send losses, scores and options to {self.uri}"] if self.uri else []

    def open(self, name: str, id: str, directory: Path) -> None:
        from mlflow import MlflowClient

        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory / 'mlflow.db'}"
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        title = self.experiment or name
        known = client.get_experiment_by_name(title)
        where = known.experiment_id if known else client.create_experiment(title)
        runs = client.search_runs([where], f"tags.`{TAG}` = '{id}'")
        if runs:
            run = runs[0].info.run_id
            client.update_run(run, status="RUNNING")
        else:
            run = client.create_run(where, run_name=id, tags={TAG: id}).info.run_id
        self._client, self._run = client, run

    def settings(self, values: Mapping[str, Any]) -> None:
        client, run = self._client, self._run
        known = client.get_run(run).data.params  # a value can't be changed there
        for key, value in values.items():
            if key not in known:
                client.log_param(run, key, value)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in figures.items()]
        self._last = self._client.log_batch(self._run, metrics, synchronous=False)

    def say(self, text: str, step: int) -> None:
        self._client.set_tag(self._run, f"watcher.{step}", text)

    def close(self) -> None:
        if self._last is not None:
            self._last.wait()
        self._client.set_terminated(self._run)
