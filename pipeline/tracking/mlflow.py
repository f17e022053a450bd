"""Runs of an MLflow server, or of a database in a folder of yours."""

from __future__ import annotations

import fcntl
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.epoch import Epoch
from pipeline.core.record import digest
from pipeline.core.rundir import read_json, write_json
from pipeline.tracking import Place, Scalar, numbers

_STATE = "mlflow.json"
_METRICS, _PARAMS, _TEXT = 1000, 100, 500  # what a server takes in one call and one value

#: Nothing is reported to MLflow's makers, and a server that is away is given up soon: its
#: own default tries for minutes, with the training waiting.
_SETTINGS = {
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class Mlflow:
    """One MLflow run for a run; the same one where its training is continued.

    What was tracked is the same training if its first epoch is, which took the very same
    time: then only what is missing is sent. Another training's run is deleted for the new.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("mlflow", "alembic", "sqlalchemy")
    INSTALL: ClassVar[str] = 'pip install "pare[track]"'

    def __init__(self, place: Place) -> None:
        self._place = place
        self._state = place.folder / _STATE
        self._params: dict[str, Scalar] = {}
        self._client: Any = None
        self._run = ""
        self._id = ""
        self._sent: dict[str, set[int]] = {}

    def begin(self, params: Mapping[str, Scalar]) -> None:
        """Connect, and make the experiment where it is new."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self._params = dict(params)
        with _quiet(), _alone(self._place.address):
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient(tracking_uri=_uri(self._place.address))
            self._id = self._experiment()

    def epoch(self, curve: str, epoch: Epoch) -> None:
        """Send an epoch's figures, unless the server has them."""
        with _quiet():
            if not self._run:
                self._run = self._same(epoch) or self._new(epoch)
            if epoch.epoch not in self._known(curve):
                values = {f"{curve}/{name}": value for name, value in numbers(epoch).items()}
                self._log(values, epoch.epoch)
                self._sent[curve].add(epoch.epoch)

    def finish(self, figures: Mapping[str, float]) -> None:
        """Send those figures of the stages that are new, and end the run."""
        with _quiet():
            known = self._client.get_run(self._run).data.metrics
            named = {_named(name): value for name, value in figures.items()}
            self._log({k: v for k, v in named.items() if known.get(k) != v}, 0)
            self._client.set_terminated(self._run, "FINISHED")

    def stop(self) -> None:
        """Mark the run as broken off."""
        with _quiet():
            if self._run:
                self._client.set_terminated(self._run, "KILLED")

    def close(self) -> None:
        """Do nothing: no call leaves anything open."""

    def _same(self, first: Epoch) -> str | None:
        """Return the run of this very training, if the server has it."""
        try:
            state = read_json(self._state)
        except (OSError, ValueError):
            return None
        run = str(state["run"])
        if state["server"] != _uri(self._place.address):
            return None
        same = state["training"] == self._training(first)
        if same and self._asked(lambda: self._is_alive(run)):
            self._client.set_terminated(run, "RUNNING")
            return run
        self._asked(lambda: self._client.delete_run(run))
        return None

    def _is_alive(self, run: str) -> bool:
        return bool(self._client.get_run(run).info.lifecycle_stage == "active")

    def _asked(self, ask: Callable[[], Any]) -> Any:
        """Return what the server says; nothing, where it knows no such run any more."""
        from mlflow.exceptions import MlflowException

        try:
            return ask()
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _new(self, first: Epoch) -> str:
        """Create a run with the recipe as its parameters, and remember which one."""
        from mlflow.entities import Param

        run = str(self._client.create_run(self._id, run_name=self._place.run).info.run_id)
        params = [Param(_named(k), str(v)[:_TEXT]) for k, v in self._params.items()]
        for some in _in_parts(params, _PARAMS):
            self._client.log_batch(run, params=some)
        self._state.parent.mkdir(parents=True, exist_ok=True)
        write_json(
            self._state,
            {
                "server": _uri(self._place.address),
                "run": run,
                "training": self._training(first),
            },
        )
        return run

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._place.experiment
        found = self._client.get_experiment_by_name(name)
        if not found:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another run was faster
                found = self._client.get_experiment_by_name(name)
                if not found:
                    raise
        return str(found.experiment_id)

    def _training(self, first: Epoch) -> str:
        return digest(
            [self._place.experiment, self._place.run, self._params, first.model_dump()]
        )

    def _known(self, curve: str) -> set[int]:
        if curve not in self._sent:
            history = self._client.get_metric_history(self._run, f"{curve}/task_loss")
            self._sent[curve] = {metric.step for metric in history}
        return self._sent[curve]

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        for some in _in_parts(metrics, _METRICS):
            self._client.log_batch(self._run, metrics=some)


def _uri(address: str) -> str:
    """Return where MLflow writes: an address as it is, a folder as the database in it.

    MLflow's own files in a folder are being given up by it.

    >>> _uri("http://127.0.0.1:5000"), _uri("/runs")
    ('http://127.0.0.1:5000', 'sqlite:////runs/mlflow.db')
    """
    plain = address.removeprefix("file://")
    if "://" in plain:
        return address
    return f"sqlite:///{Path(plain).absolute() / 'mlflow.db'}"


@contextmanager
def _alone(address: str) -> Iterator[None]:
    """Keep runs side by side from making the database in a folder at the same time."""
    uri = _uri(address)
    if not uri.startswith("sqlite:///"):
        yield
        return
    folder = Path(uri.removeprefix("sqlite:///")).parent
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _in_parts(values: list[Any], most: int) -> Iterator[list[Any]]:
    yield from (values[start : start + most] for start in range(0, len(values), most))


def _named(text: str) -> str:
    """Return a name that a server takes."""
    return re.sub(r"[^\w\-. :/]", "_", text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what MLflow's dependencies warn each other of from the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
