"""Trackers are told everything once, whatever becomes of the run, and cost it nothing."""

import json
from types import SimpleNamespace

import pytest
from fast_run import FAST, stage_hashes

from pipeline import tracking
from pipeline.core.errors import Interrupted, PareError
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json
from pipeline.stages.runner import Quiet, Runner
from pipeline.tracking import TRACKERS, flat, numbers, parameters
from pipeline.tracking.tensorboard import Tensorboard


class Heard(Quiet):
    """Notes warnings, and stops after an epoch where it is told to."""

    def __init__(self, stop_after=None):
        self.warnings, self.stop_after = [], stop_after

    def warn(self, text):
        self.warnings.append(text)

    def progress(self, done, total, epoch):
        if done == self.stop_after:
            raise KeyboardInterrupt


def run(out, *overrides, until="prune", fresh=False, stop_after=None):
    """Run the fast recipe; return what was warned of."""
    heard = Heard(stop_after)
    Runner(Recipe.load("quickstart", [*FAST, *overrides]), out, heard).run(
        until=until, fresh=fresh
    )
    return heard.warnings


def events(out):
    """Return what TensorBoard's own reader finds: points by tag."""
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader"
    ).EventFileLoader
    found = {}
    for path in sorted((out / "tracking" / "tensorboard").iterdir()):
        for event in loader(str(path)).Load():
            for value in event.summary.value:
                number = value.tensor.float_val[0] if value.tensor.float_val else None
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def curve(out, name="task_loss"):
    return events(out)[f"epoch/{name}"]


def history(out, name="task_loss"):
    epochs = read_json(out / "1-train" / "history.json")
    return [(e["epoch"], pytest.approx(e[name], rel=1e-6)) for e in epochs]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("tracked") / "run"
    assert run(out) == []
    return out


def test_every_run_has_event_files_that_tensorboard_reads(made):
    for name in ("task_loss", "budget_loss", "accuracy", "pruned_accuracy", "lr", "seconds"):
        assert curve(made, name) == history(made, name)
    assert [step for step, _ in curve(made, "cost")] == [1, 2]
    found = events(made)
    metrics = read_json(made / "1-train" / "stage.json")["metrics"]
    assert found["train/kept_weights"] == [(0, metrics["kept_weights"])]
    assert found["train/test_accuracy"] == [(0, pytest.approx(metrics["test_accuracy"]))]
    assert "_hparams_/session_start_info" in found


def test_the_recipe_is_among_its_hyperparameters(made):
    from tensorboard.plugins.hparams import plugin_data_pb2

    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    (path,) = (made / "tracking" / "tensorboard").iterdir()
    values = [v for e in loader.EventFileLoader(str(path)).Load() for v in e.summary.value]
    (start,) = [v for v in values if v.tag == "_hparams_/session_start_info"]
    content = plugin_data_pb2.HParamsPluginData.FromString(start.metadata.plugin_data.content)
    params = content.session_start_info.hparams
    assert params["train.lr"].number_value == pytest.approx(0.05)
    assert params["method.name"].string_value == "reparam"
    assert not any(name.startswith("track.") for name in params)


def test_a_finished_run_is_not_told_again(made):
    before = {path: path.stat().st_mtime_ns for path in (made / "tracking").rglob("*")}
    run(made)
    assert {p: p.stat().st_mtime_ns for p in (made / "tracking").rglob("*")} == before


def test_a_continued_training_has_each_step_once(tmp_path):
    with pytest.raises(Interrupted):
        run(tmp_path / "run", "train.epochs=3", stop_after=2)
    assert [step for step, _ in curve(tmp_path / "run")] == [1, 2]
    run(tmp_path / "run", "train.epochs=3")
    assert curve(tmp_path / "run") == history(tmp_path / "run")
    assert [step for step, _ in curve(tmp_path / "run")] == [1, 2, 3]


def test_a_second_training_replaces_the_first(tmp_path):
    out = tmp_path / "run"
    run(out)
    first = curve(out)
    run(out, "seed=1")
    assert curve(out) == history(out)
    assert curve(out) != first


def test_what_a_broken_off_training_left_is_not_taken_for_the_finished_one(tmp_path):
    out = tmp_path / "run"
    run(out)
    with pytest.raises(Interrupted):
        run(out, fresh=True, stop_after=1)
    assert len(curve(out)) == 1
    run(out)  # every stage is there and is skipped
    assert curve(out) == history(out)
    assert "train/kept_weights" in events(out)


def test_tracking_changes_no_result_and_no_key(made, tmp_path):
    out = tmp_path / "run"
    run(out, "track.tensorboard=false", "track.experiment=other")
    assert not (out / "tracking" / "tensorboard").exists()
    one, other = stage_hashes(made), stage_hashes(out)
    assert one["1-train/model.safetensors"] == other["1-train/model.safetensors"]
    keys = [
        read_json(folder / "1-train" / "stage.json")["provenance"]["key"]
        for folder in (made, out)
    ]
    assert keys[0] == keys[1]
    run(out)  # turned on later: the curve is told from what the training left
    assert curve(out) == history(out)


@pytest.mark.parametrize("name", ["begin", "epoch", "finish"])
def test_a_tracker_that_fails_warns_once_and_the_run_goes_on(tmp_path, monkeypatch, name):
    calls = []

    def full(self, *args):
        calls.append(name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tensorboard, name, full)
    (warning,) = run(tmp_path / "run")
    assert warning.startswith("tensorboard tracks this run no longer: ")
    assert "No space left on device" in warning
    assert calls == [name]
    assert (tmp_path / "run" / "2-prune" / "stage.json").is_file()
    monkeypatch.undo()
    assert run(tmp_path / "run") == []  # nothing is left to do but this
    assert curve(tmp_path / "run") == history(tmp_path / "run")


def test_a_folder_that_cannot_be_written_costs_a_warning(tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "tracking").write_text("a file")
    (warning,) = run(out)
    assert "tracks this run no longer" in warning


def test_a_tracker_that_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "mlflow" else 1)
    with pytest.raises(
        PareError, match=r'mlflow needs mlflow, .* pip install "pare\[track\]"'
    ):
        run(tmp_path / "run", "track.mlflow=/anywhere")
    assert not (tmp_path / "run").exists()


def test_rounded_training_has_a_curve_of_its_own(tmp_path):
    told = []
    tracker = SimpleNamespace(
        begin=lambda params: told.append("begin"),
        epoch=lambda curve, epoch: told.append((curve, epoch)),
    )
    recipe = Recipe.load("quickstart", ["track.tensorboard=false"])
    follower = tracking.Tracking(recipe, tmp_path, Quiet())
    follower._open = {"own": tracker}
    follower.progress(1, 1, "trained")
    follower.stage(1, "train", "text", 1.0)
    follower.progress(1, 1, "rounded")
    assert told == ["begin", ("epoch", "trained"), ("qat", "rounded")]


def test_each_file_of_the_room_has_its_key_in_the_recipe_and_its_class():
    recipe = Recipe.load("quickstart")
    assert TRACKERS.plugins().keys() == {"mlflow", "tensorboard"}
    for key, plugin in TRACKERS.plugins().items():
        assert hasattr(recipe.track, key)
        assert plugin.help
        kind, _ = TRACKERS.load(key)
        assert kind.NEEDS
        assert kind.INSTALL.startswith("pip install")


def test_what_is_told_is_numbers_and_leaves():
    recipe = Recipe.load("quickstart")
    params = parameters(recipe)
    assert params["train.batch_size"] == recipe.train.batch_size
    assert json.loads(params["targets"]) == recipe.targets
    assert all(isinstance(value, str | int | float) for value in params.values())
    nested = {"a": True, "b": float("nan"), "c": [1, 2], "d": [{"id": "e", "f": 3}],
              "layers": {"0": {"macs": 1}}, "g": None}  # fmt: skip
    assert dict(flat(nested)) == {"d.e.f": 3.0}
    epoch = SimpleNamespace(model_dump=lambda exclude: {"cost": None, "lr": 0.1})
    assert numbers(epoch) == {"lr": 0.1}
