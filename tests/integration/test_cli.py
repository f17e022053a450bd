"""The command line: it answers at once, says what there is, and ends with the right code."""

import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import pytest
from fast_run import ROOT, arguments, pare, stage_hashes

from pipeline import run as run_recipe
from pipeline.core.errors import PareError

doctor = importlib.import_module("pipeline.cli.doctor")  # the command has the same name

HEAVY = (
    "torch", "torchvision", "tensorflow", "onnx", "onnxruntime", "numpy", "PIL", "sklearn",
    "matplotlib", "lightning_fabric", "ai_edge_litert", "onnx2tf",
)  # fmt: skip


def python(code, *args):
    argv = [sys.executable, "-c", code, *args]
    return subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=60)


def test_no_help_and_no_listing_loads_an_engine():
    code = f"""
import sys
import click
from click.testing import CliRunner
from pipeline.cli import main

def commands(command, path=()):
    yield path
    for name, inner in getattr(command, "commands", {{}}).items():
        yield from commands(inner, (*path, name))

calls = [(*path, "--help") for path in commands(main)]
rooms = ["methods", "models", "data", "targets", "quantizers", "exporters", "recipes"]
calls += [("list", room) for room in rooms]
calls += [("targets", "check", "targets/raspberry-pi-4b.toml"), ("targets", "list")]
calls += [("targets", "show", "raspberry-pi-4b"), ("--version",)]
for call in calls:
    result = CliRunner().invoke(main, call)
    assert result.exit_code == 0 and result.output, (call, result.output)
    loaded = [name for name in {HEAVY} if name in sys.modules]
    assert not loaded, (call, loaded)
print(len(calls))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 20


def test_help_costs_no_more_than_a_little_over_its_own_parser():
    def median(code):
        taken = []
        for _ in range(5):
            began = time.perf_counter()
            assert python(code, "--help").returncode == 0
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)

    assert median("from pipeline.cli import main; main()") < 3 * median("import click")


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("methods", ["dense", "magnitude", "reparam"]),
        ("models", ["conv2", "resnet8", "torchvision", "vgg19"]),
        ("data", ["cifar10", "digits", "image_folder"]),
        ("targets", ["android-midrange", "raspberry-pi-4b", "smart-camera-imx8mp", "stm32h7"]),
        ("quantizers", ["dynamic_range", "float16", "float32", "int8"]),
        ("exporters", ["onnx", "tflite_litert", "tflite_onnx2tf"]),
        ("recipes", ["cifar10", "quickstart"]),
    ],
)
def test_a_listing_has_a_line_on_each(what, some):
    result = pare("list", what)
    assert result.exit_code == 0
    found = dict(line.split("  ", 1) for line in result.output.splitlines())
    assert set(some) <= found.keys()
    assert all(text.strip() for text in found.values())


def test_the_targets_are_listed_the_same_in_both_places():
    assert pare("targets", "list").output == pare("list", "targets").output


def test_a_target_is_shown_with_the_source_of_every_figure():
    result = pare("targets", "show", "raspberry-pi-4b")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    at = lines.index("  memory.memcpy_mb_s = 2325 MB/s")
    assert lines[at + 1].startswith("      measured: tinymembench")
    figures = [line for line in lines if " = " in line and not line.startswith("      ")]
    sources = [line for line in lines if line.startswith("      ")]
    assert len(figures) == len(sources) > 20


def test_a_doctor_finds_what_is_there(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "99.0")
    monkeypatch.setattr(doctor, "requires", lambda name: ["torch>=2.9"])
    result = pare("doctor")
    assert result.exit_code == 0
    assert result.output.startswith("pare 99.0, Python ")
    assert "torch 99.0" in result.output
    assert "MISSING" not in result.output


def test_a_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch):
    def installed(name):
        return None if name in ("onnx2tf", "pillow") else "1.0"

    monkeypatch.setattr(doctor, "_version", installed)
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=2", "absent>=1"])
    result = pare("doctor")
    assert result.exit_code == 2
    assert "missing: onnx2tf\n" in result.output
    assert f'{sys.executable} -m pip install "pare[onnx2tf]"' in result.output
    assert "missing: pillow\n" in result.output
    assert '-m pip install "pare"' in result.output
    assert "CONFLICT numpy 1.0 is installed, pare needs >=2" in result.output


def test_a_doctor_of_a_checkout_that_is_not_installed_still_answers(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", nothing)
    assert "pare itself is not installed" in pare("doctor").output


def test_the_version_is_that_of_the_package():
    assert pare("--version").output == f"pare, version {version('pare')}\n"


@pytest.mark.parametrize(
    "call",
    [
        ("nothing",), ("run", "--nothing"), ("list",), ("list", "everything"),
        ("targets", "show"), ("report", "no-such-folder"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused_with_its_usage(call):
    result = pare(*call)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.cli.running.execute", broken)
    with pytest.raises(KeyError, match="a bug"):
        pare("run")


@pytest.mark.parametrize("folder", ["empty", "file"])
def test_what_is_no_run_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    result = pare("prune", str(tmp_path / folder))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    if folder == "empty":
        assert "is not the folder of a run: it has no recipe.toml" in result.stderr


def test_a_folder_named_like_a_recipe_does_not_hide_the_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    result = pare("train", "quickstart", "--set", "budget.weights=0")
    assert "budget.weights = 0" in result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    result = pare(*arguments("prune", out))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line[:1].isdigit()] == [
        ["1", "train"],
        ["2", "prune"],
    ]
    return out


def test_one_stage_of_a_run_goes_on_from_those_before(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "run")
    before = stage_hashes(out)
    result = pare("compact", str(out))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("skipped") == 2
    after = stage_hashes(out)
    assert {name: after[name] for name in before} == before
    assert "3-compact/equivalence.json" in after


def test_quiet_prints_nothing_but_errors(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "run")
    result = pare("compact", str(out), "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    result = pare("compact", str(out), "--quiet", "--set", "model.name=conv3")
    assert result.exit_code == 2
    assert result.output.startswith("error: ")


def test_fresh_trains_again(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "run")
    result = pare("train", str(out), "--fresh")
    assert result.exit_code == 0
    assert "skipped" not in result.stdout


def test_a_target_on_the_command_line_replaces_those_of_the_recipe(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "run")
    result = pare("quantize", str(out), "--target", "smart-camera-imx8mp")
    assert result.exit_code == 0, result.stderr
    assert 'targets = [\n    "smart-camera-imx8mp",\n]' in (out / "recipe.toml").read_text()


ONNX_ONLY = """
schema = "edge-target/1"
id = "{name}"
name = "{name}"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx"]
dtypes = ["fp32"]
[budgets]
basis = "assumed"
source = "test"
model_mb = {limit}
"""


def test_a_target_that_nothing_fits_ends_with_the_table_and_code_three(made, tmp_path):
    out = shutil.copytree(made, tmp_path / "run")
    for name, limit in (("roomy", 1.0), ("tight", 0.0001)):
        path = tmp_path / f"{name}.toml"
        path.write_text(ONNX_ONLY.format(name=name, limit=limit))
    roomy = pare("run", str(out), "--target", str(tmp_path / "roomy.toml"))
    assert roomy.exit_code == 0, roomy.output
    assert "model.float32.onnx" in roomy.stdout
    tight = pare("run", str(out), "--target", str(tmp_path / "tight.toml"))
    assert tight.exit_code == 3
    (line,) = tight.stderr.splitlines()
    assert line.startswith("error: tight: no file fits (file size ")
    assert line.endswith(" MB, limit 0.0001 MB)")
    (shown,) = [line for line in tight.stdout.splitlines() if line.startswith(" tight ")]
    assert "nearest: model.float32.onnx" in shown
    assert "not predictable" in shown
    assert " MB " in shown
    assert "Targets" in tight.stdout
    assert tight.stdout.count("skipped") == 5  # only the verdicts are new
    assert (out / "report.html").is_file()
    again = pare("run", str(out))
    assert (again.exit_code, again.stdout.count("skipped")) == (3, 6)
    with pytest.raises(PareError, match="no file fits"):
        run_recipe(str(out / "recipe.toml"), out=out)
    rewritten = pare("report", str(out))
    assert rewritten.stdout.strip().endswith("report.html")
    stays = stage_hashes(out)
    alone = pare("train", str(out), "--set", "train.epochs=1")
    assert f"warning: the report in {out} describes the previous" in alone.stdout
    assert stage_hashes(out).keys() == stays.keys()
    stale = pare("report", str(out))
    assert stale.exit_code == 2
    said = "stage 'prune' is stale: it was made from an earlier result of 'train'"
    assert said in stale.stderr
    assert f"`pare run {out}`" in stale.stderr


def test_a_file_is_judged_by_the_trained_and_by_the_compact_network(
    made, tmp_path, monkeypatch
):
    from pipeline.profilers.verdict import judge

    seen = []

    def noted(candidate, target):
        seen.append((candidate.reference_top1, candidate.compact_top1))
        return judge(candidate, target)

    out = shutil.copytree(made, tmp_path / "run")
    path = tmp_path / "roomy.toml"
    path.write_text(ONNX_ONLY.format(name="roomy", limit=1.0))
    pare("compact", str(out))
    record = json.loads((out / "3-compact" / "stage.json").read_text())
    record["metrics"]["test_accuracy"] = 0.123
    (out / "3-compact" / "stage.json").write_text(json.dumps(record))
    monkeypatch.setattr("pipeline.stages.profile.judge", noted)
    assert pare("profile", str(out), "--target", str(path)).exit_code == 0
    trained = json.loads((out / "1-train" / "stage.json").read_text())["metrics"]
    assert seen == [(trained["test_accuracy"], 0.123)]


def test_each_problem_is_a_line_that_says_so(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text('[model]\nname = "conv2"\n[data]\nname = "digits"\n[budgt]\n[trian]\n')
    result = pare("run", str(path))
    assert result.exit_code == 2
    assert [line[:7] for line in result.stderr.splitlines()] == ["error: ", "error: "]


def test_a_path_to_nothing_is_said_to_be_one(tmp_path):
    result = pare("export", str(tmp_path / "nosuch"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {tmp_path}/nosuch is no folder and no file. Give")


def test_the_beginning_of_a_target_offers_it():
    result = pare("targets", "show", "raspberry")
    assert result.exit_code == 2
    assert "no target named 'raspberry'. Did you mean 'raspberry-pi-" in result.stderr


def test_the_report_of_what_is_no_run_is_refused(tmp_path):
    result = pare("report", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
