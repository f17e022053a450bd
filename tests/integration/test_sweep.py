"""A sweep as a user starts it: both engines, a kill, Ctrl-C, a failure, what is shared."""

import csv
import json
import os
import signal
import time

import pytest
from fast_run import FAST, pare, stage_hashes, start_pare

from pipeline.core.rundir import read_json
from pipeline.search.board import Quiet
from pipeline.search.engine import chosen, fitting_workers
from pipeline.search.folder import SearchDir
from pipeline.search.grid import axes, trials
from pipeline.search.sequential import Sequential
from pipeline.search.sweep import sweep

ray = pytest.importorskip("ray", reason="the extra 'sweep' is not installed")

GRID = ("--grid", "budget.weights=0.5,0.3", "--grid", "compact.multiple=1,2")


def arguments(out, *more, grid=GRID, until="compact"):
    sets = [part for text in FAST for part in ("--set", text)]
    own = ["--out", str(out), "--until", until, *sets, *more]
    return ["sweep", "quickstart", *grid, *own]


def outcomes(out):
    return {path.stem: read_json(path) for path in (out / "outcomes").glob("*.json")}


def test_what_trials_share_is_computed_once_and_a_second_start_does_nothing(tmp_path):
    out = tmp_path / "sweep"
    result = pare(*arguments(out, "--workers", "1"))
    assert result.exit_code == 0, result.output
    found = outcomes(out)
    assert len(found) == 4
    executed = sorted(stage for one in found.values() for stage in one["executed"])
    assert executed == ["compact"] * 4 + ["prune"] * 2 + ["train"] * 2
    shared = sorted(stage for one in found.values() for stage in one["shared"])
    assert shared == ["prune"] * 2 + ["train"] * 2
    before = {run.name: stage_hashes(run) for run in SearchDir(out).runs()}
    again = pare(*arguments(out, "--workers", "1"))
    assert again.output.count("was finished before") == 4
    assert {run.name: stage_hashes(run) for run in SearchDir(out).runs()} == before
    # A trial is an ordinary run: another one of the same recipe leaves the same weights.
    alone = pare(
        "run", str(out / "trials" / "weights=0.5,multiple=1"), "--out", str(tmp_path / "one")
    )
    assert alone.exit_code == 0, alone.output
    weights = "3-compact/model.safetensors"
    one = (out / "trials" / "weights=0.5,multiple=1" / weights).read_bytes()
    assert (tmp_path / "one" / weights).read_bytes() == one


def test_the_report_holds_every_trial_and_needs_nothing_else(tmp_path):
    out = tmp_path / "sweep"
    pare(*arguments(out, "--workers", "1", "--seeds", "2", grid=GRID[:2]))
    page = (out / "search.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "://" not in page.replace("http://www.w3.org", "")
    assert page.count("<title>budget.weights") == 4  # a point says what it is
    rows = list(csv.DictReader((out / "search.csv").read_text().splitlines()))
    assert [row["trial"] for row in rows] == [
        f"weights={weights},seed={seed}" for weights in (0.5, 0.3) for seed in (0, 1)
    ]
    results = read_json(out / "results.json")
    for row, trial in zip(rows, results["trials"], strict=True):
        assert float(row["accuracy"]) == trial["figures"]["accuracy"]
        assert f'id="trial-{trial["name"]}"' in page


def test_a_trial_that_fails_is_told_and_the_others_go_on(tmp_path):
    grid = ("--grid", "budget.weights=0.5,0.0001")
    result = pare(*arguments(tmp_path / "sweep", "--workers", "1", grid=grid))
    assert result.exit_code == 2
    assert "trial weights=0.0001 failed: budget.weights = 0.0001 of 836" in result.output
    found = outcomes(tmp_path / "sweep")
    assert {name: one["state"] for name, one in found.items()} == {
        "weights=0.5": "finished", "weights=0.0001": "failed",
    }  # fmt: skip
    # It is tried again, since what made it fail may be gone, and the other is not.
    again = pare(*arguments(tmp_path / "sweep", "--workers", "1", grid=grid))
    assert again.output.count("was finished before") == 1
    assert again.exit_code == 2


def test_json_is_a_line_an_event(tmp_path):
    out = tmp_path / "sweep"
    result = pare(*arguments(out, "--workers", "1", "--json", grid=GRID[:2]))
    events = [json.loads(line) for line in result.output.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds == [*["began", "epoch", "epoch", "ended"] * 2, "report"]
    assert events[3]["figures"]["kept_weights"] == 418


def test_both_engines_leave_the_same_results(tmp_path):
    wanted = trials("quickstart", axes(["budget.weights=0.5,0.3"]), 1, overrides=FAST)
    wanted = [trial.model_copy(update={"until": "prune"}) for trial in wanted]
    figures = []
    for name, engine in (("one", Sequential(threads=1)), ("two", chosen(2, None))):
        ended = sweep(wanted, tmp_path / name, engine, Quiet())
        assert [one.state for one in ended] == ["finished", "finished"]
        figures.append([{**one.figures, "train_seconds": 0} for one in ended])
    assert figures[0] == figures[1]
    assert not (tmp_path / "two" / ".ray").exists()


def killed(process):
    process.kill()
    process.communicate()


def begun(out, process, count):
    """Wait until so many trials have ended and another one trains."""
    end = time.monotonic() + 150
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        ended = list((out / "outcomes").glob("*.json"))
        if len(ended) >= count and list(
            (out / "trials").glob("*/1-train.partial/checkpoint*")
        ):
            return
        time.sleep(0.05)
    raise AssertionError("the sweep did not get so far")


SLOW = ("--set", "train.epochs=12", "--seeds", "3")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_killed_sweep_repeats_no_finished_stage(tmp_path, workers):
    out = tmp_path / "sweep"
    command = arguments(out, "--workers", workers, "--quiet", *SLOW, grid=GRID[:2])
    process = start_pare(*command, cwd=tmp_path)
    begun(out, process, 2)
    killed(process)
    before = outcomes(out)
    finished = {
        path: path.stat().st_mtime_ns for path in (out / "trials").glob("*/[0-9]-*/stage.json")
    }
    assert 2 <= len(before) < 6
    process = start_pare(*command, cwd=tmp_path)
    said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    for path, when in finished.items():
        if path.parent.suffix != ".partial":
            assert path.stat().st_mtime_ns == when
    after = outcomes(out)
    assert {one["state"] for one in after.values()} == {"finished"}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    for run in SearchDir(out).runs():
        history = read_json(run / "1-train" / "history.json")
        assert [epoch["epoch"] for epoch in history] == [*range(1, 13)]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(tmp_path, workers):
    out = tmp_path / "sweep"
    command = arguments(out, "--workers", workers, *SLOW, grid=GRID[:2])
    process = start_pare(*command, cwd=tmp_path)
    begun(out, process, 1)
    os.kill(process.pid, signal.SIGINT)
    said, told = process.communicate(timeout=120)
    assert process.returncode == 130, (said, told)
    assert "run the same command again" in told
    assert "Traceback" not in told
    again = pare(*command)
    assert again.exit_code == 0
    assert "was finished before" in again.output


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path):
    folder = SearchDir(tmp_path / "sweep")
    with folder.lock():
        result = pare(*arguments(tmp_path / "sweep", "--workers", "1"))
    assert result.exit_code == 2
    assert "another search is running in" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--grid", "budget.weights"), "is not of the form table.key=value,value"),
        (("--grid", "budget.wieghts=0.1"), "Did you mean 'weights'"),
        (("--grid", "method.name=reparm,dense"), "no method named 'reparm'"),
        (("--ray", "127.0.0.1:1"), "the Ray cluster at 127.0.0.1:1 can't be reached"),
    ],
)
def test_what_can_not_be_swept_is_refused(tmp_path, more, message):
    result = pare(*arguments(tmp_path / "sweep", *more, grid=()))
    assert result.exit_code == 2
    assert message in result.output


def test_without_ray_one_worker_remains(monkeypatch):
    import importlib.util

    from pipeline.core.errors import PareError

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert isinstance(chosen(None, None), Sequential)
    for asked in ((2, None), (None, "auto")):
        with pytest.raises(
            PareError, match=r"Ray is not installed.*pip install 'pare\[sweep\]'"
        ):
            chosen(*asked)


def test_workers_are_bounded_by_memory(monkeypatch):
    from pipeline.search import engine

    monkeypatch.setattr(engine, "_available_gb", lambda: 2.0)
    assert fitting_workers() == 1
    monkeypatch.setattr(engine, "_available_gb", lambda: 1000.0)
    assert fitting_workers() == len(os.sched_getaffinity(0))


@pytest.mark.filterwarnings("ignore")  # of what a database's client brings along
def test_side_by_side_no_training_is_done_twice_and_mlflow_has_every_trial(tmp_path):
    """One dense start, two budgets, two compactions each: every key is waited for."""
    grid = ("--grid", "budget.weights=0.5,0.4", "--grid", "compact.multiple=1,2")
    tuned = ("--set", "method.name=magnitude", "--set", "method.finetune_epochs=1")
    tracked = ("--set", f"track.mlflow={tmp_path / 'ml'}")
    out = tmp_path / "sweep"
    result = pare(*arguments(out, "--workers", "2", *tuned, *tracked, grid=grid))
    assert result.exit_code == 0, result.output
    found = outcomes(out)
    executed = [stage for one in found.values() for stage in one["executed"]]
    assert executed.count("train") == 2
    assert len(list((out / "shelf").glob("dense-*.pt"))) == 1
    warned = [text for one in found.values() for text in one["warnings"]]
    assert not [text for text in warned if "tracks this run no longer" in text]
    client = pytest.importorskip("mlflow.tracking", reason="the extra 'track' is missing")
    runs = client.MlflowClient(f"sqlite:///{tmp_path / 'ml'}/mlflow.db")
    experiment = runs.get_experiment_by_name("pare")
    names = {one.info.run_name for one in runs.search_runs([experiment.experiment_id])}
    assert names == set(found)
