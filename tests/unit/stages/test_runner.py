"""Stages run once, and again exactly when what they depend on has changed."""

import errno
import shutil

import pytest
from fast_run import FAST, run_fast, stage_hashes

from pipeline import run as run_recipe
from pipeline.core.epoch import Epoch
from pipeline.core.errors import Interrupted, OverBudget, PareError
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import read_json, write_json
from pipeline.stages import STAGES, Stage, check_order, named, runner
from pipeline.stages.runner import Quiet, Runner, demand_fit
from pipeline.stages.terminal import Terminal

EPOCH = Epoch(
    phase="train", epoch=1, task_loss=1.0, budget_loss=0.0, accuracy=0.5, pruned_accuracy=0.4,
    cost=None, lr=0.1, seconds=1.0,
)  # fmt: skip
NAMES = ["train", "prune", "compact", "quantize", "export", "profile"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run up to the plan of the files; to be copied, not changed."""
    out = tmp_path_factory.mktemp("made") / "run"
    assert run_fast(out, until="quantize").executed == NAMES[:4]
    return out


@pytest.fixture
def out(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_the_stages_are_these_in_this_order_and_it_holds():
    assert [stage.name for stage in STAGES] == NAMES
    check_order()
    assert named("prune").name == "prune"
    with pytest.raises(PareError, match=r"no stage named 'prun'. Did you mean 'prune'"):
        named("prun")


def test_an_order_in_which_a_stage_finds_nothing_is_refused():
    first = Stage("first", (), "a", ())
    second = Stage("second", ("a",), "b", ())
    check_order((first, second))
    with pytest.raises(PareError, match="stage 'second' needs a a, which no earlier stage"):
        check_order((second, first))


def test_the_second_time_nothing_is_executed_or_touched(out):
    before = stage_hashes(out)
    again = run_fast(out, until="quantize")
    assert again.executed == []
    assert list(again.artifacts) == NAMES[:4]
    assert stage_hashes(out) == before


@pytest.mark.parametrize(
    ("override", "executed"),
    [
        ("train.epochs=1", NAMES[:4]),
        ("seed=1", NAMES[:4]),
        ("budget.weights=0.4", NAMES[:4]),
        ("method.mixing=1.0", NAMES[:4]),
        ("model.hidden=9", NAMES[:4]),
        ("quantize.calibration_images=10", ["quantize"]),
        ("targets=['raspberry-pi-4b']", ["quantize"]),
        ("export.opset=19", []),
        ("profile.runs=101", []),
        ("name=other", []),
    ],
)
def test_a_changed_parameter_executes_exactly_its_stage_and_the_heirs(out, override, executed):
    assert run_fast(out, override, until="quantize").executed == executed
    assert run_fast(out, override, until="quantize").executed == []


@pytest.mark.parametrize(
    ("file", "executed"),
    [
        ("core/budget.py", NAMES[:4]), ("graph/trace.py", NAMES[:4]),
        ("stages/compact.py", NAMES[2:4]), ("quantizers/int8.py", ["quantize"]),
        ("exporters/parity.py", []), ("report/tables.py", []), ("stages/runner.py", []),
    ],
)  # fmt: skip
def test_changed_code_executes_exactly_the_stages_that_run_it(
    out, tmp_path, monkeypatch, file, executed
):
    package = shutil.copytree(runner._PACKAGE, tmp_path / "pipeline")
    with (package / file).open("a") as opened:
        opened.write("\n# changed\n")
    monkeypatch.setattr(runner, "_PACKAGE", package)
    assert run_fast(out, until="quantize").executed == executed


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_result_that_was_harmed_is_made_again_with_its_heirs(out, stage):
    folder = out / f"{stage}-{NAMES[stage - 1]}"
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    assert run_fast(out, until="quantize").executed == NAMES[stage - 1 : 4]


def test_fresh_believes_nothing(out):
    assert run_fast(out, until="prune", fresh=True).executed == NAMES[:2]


def test_fresh_keeps_what_is_there_until_there_is_something_better(out, monkeypatch):
    before = stage_hashes(out)
    monkeypatch.setattr("pipeline.training.loop._Loop._train_epoch", _interrupt)
    with pytest.raises(Interrupted):
        run_fast(out, until="quantize", fresh=True)
    assert stage_hashes(out) == before
    monkeypatch.undo()
    assert run_fast(out, until="quantize").executed == []


def test_only_the_stages_asked_for_run(tmp_path):
    result = run_fast(tmp_path / "run", until="train")
    assert result.executed == ["train"]
    assert result.report == {}
    assert not (tmp_path / "run" / "report.json").exists()


def test_each_stage_says_where_it_comes_from(out):
    parent = None
    for number, name in enumerate(NAMES[:4], 1):
        record = read_json(out / f"{number}-{name}" / "stage.json")
        provenance = record["provenance"]
        assert record["kind"] == STAGES[number - 1].produces
        assert (provenance["stage"], provenance["parent"]) == (name, parent)
        assert provenance["parameters"].keys() == set(STAGES[number - 1].recipe)
        assert provenance["versions"].keys() >= {"python", "torch", "pare"}
        assert provenance["seconds"] > 0
        assert provenance["finished_utc"].endswith("+00:00")
        parent = provenance["key"]
    train = read_json(out / "1-train" / "stage.json")
    assert train["provenance"]["parameters"]["train"]["momentum"] == 0.9  # spelled out
    assert train["metrics"]["options"]["n"] == 4


def test_no_checkpoint_is_left_in_a_finished_stage(out):
    assert sorted(path.name for path in (out / "1-train").iterdir()) == [
        "history.json", "masks.safetensors", "model.safetensors", "stage.json",
    ]  # fmt: skip


def test_the_resolved_recipe_is_beside_its_results(out):
    assert Recipe.load(out / "recipe.toml") == Recipe.load("quickstart", FAST)
    run_fast(out, "quantize.calibration_images=10", until="quantize")
    assert Recipe.load(out / "recipe.toml").quantize.calibration_images == 10


def test_a_recipe_that_achieved_nothing_does_not_replace_the_one_that_did(out):
    before = (out / "recipe.toml").read_text()
    with pytest.raises(PareError, match="no folder"):
        run_fast(out, f"data.name=image-folder:{out}/nowhere")
    assert (out / "recipe.toml").read_text() == before


def test_the_budget_is_kept_through_prune_and_compact(out):
    train, prune, compact = (
        read_json(out / f"{number}-{name}" / "stage.json")["metrics"]
        for number, name in enumerate(NAMES[:3], 1)
    )
    assert train["kept_weights"] == prune["kept_weights"] == int(0.5 * train["weights"])
    assert compact["after"]["nonzero_weights"] <= prune["effective_weights"]
    assert compact["test_accuracy"] == prune["accuracy_after"]
    assert read_json(out / "3-compact" / "equivalence.json")["comparisons"]


def test_what_cannot_be_paid_for_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.training.loop._Loop._train_epoch", _interrupt)
    with pytest.raises(PareError, match=r"budget\.weights = 1e-06 of \d+ weights keeps none"):
        run_fast(tmp_path / "run", "budget.weights=1e-6")


def test_a_killed_run_goes_on_where_training_was_left(out, tmp_path, monkeypatch):
    from pipeline.training.loop import _Loop

    report = _Loop._report

    def stop(self, done):
        report(self, done)
        if done == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(_Loop, "_report", stop)
    with pytest.raises(Interrupted, match=r"interrupted in stage 'train'\. .*same command"):
        run_fast(tmp_path / "new", until="quantize")
    assert (tmp_path / "new" / "1-train.partial" / "checkpoint.pt").is_file()
    monkeypatch.undo()
    assert run_fast(tmp_path / "new", until="quantize").executed == NAMES[:4]
    one, other = stage_hashes(out), stage_hashes(tmp_path / "new")
    for name in ("model.safetensors", "masks.safetensors"):
        assert one[f"1-train/{name}"] == other[f"1-train/{name}"]
    assert one["3-compact/model.safetensors"] == other["3-compact/model.safetensors"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_in_a_sentence_and_nothing_is_lost(out, monkeypatch, number):
    before = stage_hashes(out)

    def full(*args):
        raise OSError(number, "full")

    monkeypatch.setattr("pipeline.stages.context.Context.save", full)
    with pytest.raises(PareError, match=r"the disk is full: .*Free some space and run the"):
        run_fast(out, "train.epochs=1")
    assert stage_hashes(out) == before
    monkeypatch.undo()
    assert run_fast(out, until="quantize").executed == []


def test_another_failure_is_a_bug_and_keeps_its_traceback(out, monkeypatch):
    def broken(*args):
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr("pipeline.stages.context.Context.save", broken)
    with pytest.raises(OSError, match="denied"):
        run_fast(out, "train.epochs=1")


def test_a_run_can_be_started_from_python(tmp_path, capsys):
    recipe = Recipe.load("quickstart", [*FAST, "train.epochs=1"])
    result = run_recipe(recipe, out=tmp_path / "run", until="train")
    assert result.path == tmp_path / "run"
    assert result.artifacts["train"].metrics["epochs"] == 1
    assert capsys.readouterr().out == ""
    assert run_recipe(recipe, out=tmp_path / "run", until="train", quiet=False).executed == []
    assert "1 train      skipped  reparam: 1 epochs" in capsys.readouterr().out


def told(out, *overrides, until):
    """Run the fast recipe; return what came of it and what the user was warned of."""
    said = []

    class Listening(Quiet):
        def warn(self, text):
            said.append(text)

    recipe = Recipe.load("quickstart", [*FAST, *overrides])
    return Runner(recipe, out, Listening()).run(until=until), said


def test_a_stage_alone_leaves_the_files_of_later_stages_and_says_the_report_is_old(out):
    keys = {
        name: read_json(out / f"{number}-{name}" / "stage.json")["provenance"]["key"]
        for number, name in enumerate(NAMES[:4], 1)
    }
    write_json(out / "report.json", {"keys": keys})
    before = stage_hashes(out)
    result, said = told(out, until="quantize")
    assert (result.executed, said) == ([], [])  # the report is of these very results
    result, said = told(out, "train.epochs=1", until="train")
    assert result.executed == ["train"]
    (text,) = said
    assert text == (
        f"the report in {out} describes the previous results of train, prune, compact, "
        f"quantize, export, profile; `pare run {out}` renews it."
    )
    after = stage_hashes(out)
    later = [name for name in before if not name.startswith("1-train")]
    assert later
    assert {name: after[name] for name in later} == {name: before[name] for name in later}
    result, said = told(out, "train.epochs=1", "method.mixing=0", until="prune")
    (text,) = [text for text in said if text.startswith("the report")]
    assert text.partition("results of ")[2][:13] == "train, prune,"


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_harmed_report_warns_of_nothing(out, content):
    (out / "report.json").write_text(content)
    assert told(out, "train.epochs=1", until="train")[1] == []


def test_what_an_earlier_execution_under_the_same_key_left_is_not_believed(out):
    """Killed right after training again: the heirs are whole, but of another training."""
    assert run_fast(out, until="train", fresh=True).executed == ["train"]
    assert run_fast(out, until="quantize").executed == NAMES[1:4]
    assert run_fast(out, until="quantize").executed == []


def test_a_network_without_any_path_to_its_output_is_warned_of(tmp_path):
    """Four weights cannot connect five layers; what is left is a constant, and is proved."""
    result, said = told(tmp_path / "run", "budget.weights=0.005", until="compact")
    assert result.artifacts["prune"].metrics["kept_weights"] == 4
    assert result.artifacts["prune"].metrics["effective_weights"] == 0
    assert ["disconnected" in text for text in said] == [True]


def test_quiet_says_nothing(capsys):
    quiet = Quiet()
    quiet.stage(1, "train", "text", 0.1)
    quiet.progress(1, 2, EPOCH)
    quiet.warn("text")
    assert capsys.readouterr() == ("", "")


def test_the_terminal_says_what_was_done_and_warned(capsys):
    terminal = Terminal()
    terminal.progress(1, 2, EPOCH)
    terminal.stage(1, "train", "did a thing", 1.25)
    terminal.stage(2, "prune", "did another", None)
    terminal.warn("look out")
    terminal.close()
    lines = capsys.readouterr().out.splitlines()
    assert "1 train        1.2 s  did a thing" in lines
    assert "2 prune      skipped  did another" in lines
    assert "warning: look out" in lines


def test_a_target_that_is_unknown_is_refused_before_anything_is_made(tmp_path):
    recipe = Recipe.load("quickstart", FAST).model_copy(update={"targets": ["nowhere"]})
    with pytest.raises(PareError, match="no target named 'nowhere'"):
        Runner(recipe, tmp_path / "run", Quiet())
    assert not (tmp_path / "run").exists()


def test_each_target_that_nothing_fits_is_refused_in_one_line():
    row = {
        "file": "a.onnx",
        "checks": [
            {"name": "dtype", "figure": "fp32", "limit": "int8", "passed": False},
            {"name": "peak RAM (device)", "figure": "3 MB", "limit": "2 MB", "passed": False},
            {"name": "latency", "figure": "1 ms", "limit": "2 ms", "passed": True},
            {"name": "batch", "figure": None, "limit": "1", "passed": None},
        ],
    }
    good = {"id": "good", "chosen": "a.onnx", "nearest": None, "files": [row]}
    chip = {"id": "chip", "chosen": None, "nearest": "a.onnx", "files": [row]}
    bare = {"id": "bare", "chosen": None, "nearest": None, "files": []}
    demand_fit({"targets": [good]})
    with pytest.raises(OverBudget) as error:
        demand_fit({"targets": [good, chip, bare]})
    assert str(error.value).splitlines() == [
        "chip: no file fits (dtype fp32, limit int8; peak RAM 3 MB, limit 2 MB)",
        "bare: no file fits (there is none)",
    ]


def _interrupt(*args):
    raise KeyboardInterrupt
