"""MLflow, the extra of that name."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from satbench.core.bounded import read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.training.config import TrainConfig
from satbench.training.trackers.base import figures

ID = "mlflow-run-id.txt"


class MLflow:
    """One run where MLFLOW_TRACKING_URI says, or else in OUT/mlflow.db.

    Figures are logged over epochs, `step/...` over updates. Its experiment is the one that MLFLOW_EXPERIMENT_NAME
    names, or else `satbench`. The run's id is in OUT/mlflow-run-id.txt, by which a resumed run continues it. Raises
    `BadInput` without the extra.
    """

    def __init__(self) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric
        except ImportError:
            raise BadInput("tracker mlflow needs its extra: pip install 'satbench[mlflow]'") from None
        self._mlflow, self._metric = mlflow, Metric
        self.faults: tuple[type[Exception], ...] = (mlflow.exceptions.MlflowException,)

    def on_train_begin(self, config: TrainConfig, out: Path) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{out.absolute() / 'mlflow.db'}")
        self._client: Any = self._mlflow.MlflowClient(tracking_uri=uri)
        settings = _flat(config.model_dump(mode="json"))
        file = out / ID
        if file.is_file():
            self._id = read_bounded(file).decode().strip()
            self._client.update_run(self._id, status="RUNNING")
            there = self._client.get_run(self._id).data.params
            for name, value in settings.items():
                if there.get(name) != value:  # of a run made longer: MLflow never changes a parameter
                    self._client.set_tag(self._id, name, value)
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "satbench")
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._id = self._client.create_run(number, run_name=out.absolute().name).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._id, key, value)
        write_text(file, f"{self._id}\n")

    def on_step_end(self, row: dict[str, Any]) -> None:
        self._log(figures(row, "step/"), row["update"])

    def on_epoch_end(self, row: dict[str, Any]) -> None:
        self._log(figures(row), row["epoch"])

    def on_train_end(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _log(self, scalars: dict[str, float], at: int) -> None:
        now = round(time.time() * 1000)
        metrics = [self._metric(name, float(value), now, at) for name, value in scalars.items()]
        self._client.log_batch(self._id, metrics=metrics)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted names, as after `--set`."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)}
    return found
