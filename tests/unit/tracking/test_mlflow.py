"""MLflow runs: one for a training, without a duplicate or a lost step, and no network."""

import os

import pytest
from fast_run import FAST

from pipeline.core.errors import Interrupted
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json, write_json
from pipeline.stages.runner import Quiet, Runner

pytest.importorskip("mlflow")
pytest.importorskip("alembic")

#: MLflow's dependencies warn of each other when they are loaded.
pytestmark = pytest.mark.filterwarnings("ignore")


class Heard(Quiet):
    def __init__(self, stop_after=None):
        self.warnings, self.stop_after = [], stop_after

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, done, total, epoch):
        if done == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture
def track(tmp_path):
    """Run the fast recipe with MLflow in a folder; return what was warned of."""

    def run(*overrides, stop_after=None, address=tmp_path / "ml", fresh=False):
        heard = Heard(stop_after)
        sets = [*FAST, f"track.mlflow={address}", *overrides]
        runner = Runner(Recipe.load("quickstart", sets), tmp_path / "run", heard)
        runner.run(until="prune", fresh=fresh)
        return heard.warnings

    return run


@pytest.fixture
def runs(tmp_path):
    """Ask the database for its runs that are not deleted."""

    def ask():
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path}/ml/mlflow.db")
        experiment = client.get_experiment_by_name("pare")
        found = client.search_runs([experiment.experiment_id])
        steps = [
            [
                (m.step, m.value)
                for m in client.get_metric_history(r.info.run_id, "epoch/task_loss")
            ]
            for r in found
        ]
        return list(zip(found, steps, strict=True))

    return ask


def losses(tmp_path):
    epochs = read_json(tmp_path / "run" / "1-train" / "history.json")
    return [(epoch["epoch"], epoch["task_loss"]) for epoch in epochs]


def test_a_run_is_there_with_curve_recipe_and_figures(track, runs, tmp_path):
    assert track() == []
    ((run, steps),) = runs()
    assert steps == losses(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "run"  # the folder's
    assert run.data.params["train.lr"] == "0.05"
    kept = read_json(tmp_path / "run" / "1-train" / "stage.json")["metrics"]["kept_weights"]
    assert run.data.metrics["train/kept_weights"] == kept
    assert track() == []  # all is skipped, and told already
    assert [entry[0].info.run_id for entry in runs()] == [run.info.run_id]


def test_a_continued_training_continues_its_run(track, runs, tmp_path):
    with pytest.raises(Interrupted):
        track("train.epochs=3", stop_after=2)
    ((before, steps),) = runs()
    assert before.info.status == "KILLED"
    assert [step for step, _ in steps] == [1, 2]
    assert track("train.epochs=3") == []
    ((after, steps),) = runs()
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert steps == losses(tmp_path)
    assert [step for step, _ in steps] == [1, 2, 3]


def test_another_training_replaces_the_run(track, runs, tmp_path):
    track()
    ((before, _),) = runs()
    track("seed=1")
    ((after, steps),) = runs()
    assert after.info.run_id != before.info.run_id
    assert steps == losses(tmp_path)


def test_a_run_that_the_server_has_lost_is_made_anew(track, runs, tmp_path):
    track()
    state = tmp_path / "run" / "tracking" / "mlflow.json"
    write_json(state, {**read_json(state), "run": "0" * 32})
    (tmp_path / "run" / "tracking" / "told.json").unlink()
    assert track() == []
    assert [steps for _, steps in runs()] == [losses(tmp_path)] * 2


def test_a_server_that_is_away_costs_a_warning(track, tmp_path):
    (warning,) = track(address="http://127.0.0.1:9")
    assert warning.startswith("mlflow tracks this run no longer: ")
    assert (tmp_path / "run" / "2-prune" / "stage.json").is_file()


def test_nothing_is_told_to_its_makers(track):
    track("train.epochs=1")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_a_folder_in_a_recipe_starts_at_it_and_an_address_stays(tmp_path):
    path = tmp_path / "own.toml"
    text = '[model]\nname = "conv2"\n[data]\nname = "digits"\n[track]\nmlflow = "{}"\n'
    for written, read in (
        ("ml", str(tmp_path / "ml")), ("http://host:5000", "http://host:5000"), ("", ""),
    ):  # fmt: skip
        path.write_text(text.format(written))
        assert Recipe.load(path).track.mlflow == read
