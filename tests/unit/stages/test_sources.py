"""A stage's key covers the code it runs: all of it, and no more."""

import shutil
import subprocess
import sys

import pytest

from pipeline.stages import STAGES, sources
from pipeline.stages.sources import code

PACKAGE = sources._PACKAGE
NAMES = [stage.name for stage in STAGES]


@pytest.fixture
def changed(tmp_path):
    """Change a file in a copy of the package; return the stages whose code it is."""
    copy = shutil.copytree(PACKAGE, tmp_path / "pipeline")

    def change(name):
        path = copy / name
        path.write_text(path.read_text(encoding="utf-8") + "\n# changed\n", encoding="utf-8")
        return [stage for stage in NAMES if code(stage, copy) != code(stage)]

    return change


@pytest.mark.parametrize("stage", NAMES)
def test_a_copy_of_the_package_is_the_same_code(tmp_path, stage):
    assert code(stage, shutil.copytree(PACKAGE, tmp_path / "pipeline")) == code(stage)


@pytest.mark.parametrize("name", ["graph/trace.py", "core/budget.py"])
def test_what_training_relies_on_is_training_code(changed, name):
    assert "train" in changed(name)


@pytest.mark.parametrize(
    "name",
    [
        "report/tables.py", "report/__init__.py", "cli/tables.py", "stages/runner.py",
        "stages/__init__.py", "__init__.py",
    ],
)  # fmt: skip
def test_what_no_stage_runs_changes_none(changed, name):
    assert changed(name) == []


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("exporters/to_onnx.py", ["export"]),
        ("exporters/onnx2tf_worker.py", ["export"]),  # run by its name, in a child process
        ("exporters/litert_worker.py", ["export"]),
        ("quantizers/int8.py", ["quantize"]),  # loaded by its name
        ("profilers/verdict.py", ["profile"]),
        ("runtime/bench.py", ["export", "profile"]),
        ("runtime/engines.py", ["export", "profile"]),
        ("runtime/harness.py", ["profile"]),  # run by its name, in a child process
        ("core/plan.py", ["quantize", "export"]),
        ("stages/compact.py", ["compact"]),
        ("stages/train_process.py", ["train"]),  # run by its name, in processes of its own
        ("training/launcher.py", ["train"]),
        ("tracking/tensorboard.py", []),
        (
            "methods/reparam.py",
            NAMES,
        ),  # the recipe lists the methods, and every stage reads it
        ("graph/surgery.py", NAMES),  # imported inside a function
    ],
)
def test_a_file_is_the_code_of_these_stages(changed, name, stages):
    assert changed(name) == stages


def test_every_file_but_those_above_is_the_code_of_some_stage():
    reached = {path for stage in NAMES for path in sources.sources(stage)}
    names = {sources._name(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    missed = names - {sources._name(path, PACKAGE) for path in reached}
    above = ("cli", "report", "search")
    assert {name for name in missed if name.partition("/")[0] not in above} == {
        "__init__.py", "stages/__init__.py", "stages/runner.py",
        "stages/terminal.py",
        # Trackers look on.
        "tracking/__init__.py", "tracking/mlflow.py", "tracking/tensorboard.py",
        # Compaction of a checkpoint without a run.
        "stages/checkpoint.py", "stages/network.py", "stages/standalone.py",
        # A look at one file without a run.
        "profilers/inspection.py", "profilers/op_times.py",
        # Ways to a device: what it measured is an input of the stage, by its digest.
        *(f"profilers/transports/{name}.py" for name in (
            "adb", "container", "opening", "payload", "remote", "ssh")),
        "profilers/benchmark_model.py",
        "core/emulation.py",
        # This machine, and a target file of the user's, looked at without a run.
        "profilers/probe.py", "core/target_review.py",
        # The predictor held against published runs, and rates fitted to profiles.
        *(f"profilers/{name}.py" for name in (
            "calibration", "published", "rates", "read_network", "target_text", "validation")),
        # What a finished run chose becomes an image, or a folder for a phone.
        *(f"stages/{name}.py" for name in (
            "android_bundle", "build_command", "chosen", "image_context", "image_engine",
            "package", "smoke")),
    }  # fmt: skip


SMALL = {
    "stages/one.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
    "    import pipeline.typed\nelse:\n    import pipeline.untyped\n"
    "def run():\n    try:\n        from pipeline.room import inner\n"
    "    except ImportError:\n        import pipeline.spare\n"
    "    with open(''):\n        from . import near\n"
    "    from pipeline.core.plugins import METHODS, nothing\n",
    "typed.py": "", "untyped.py": "import torch", "spare.py": "import pipeline.spare",
    "room/__init__.py": "from pipeline.room.deep import there", "room/inner.py": "",
    "room/deep.py": "there = 1", "room/other.py": "", "stages/near.py": "import os.path",
    "methods/any.py": "from pipeline.report import page", "report/__init__.py": "page = 1",
    "__init__.py": "import pipeline.typed", "alien.py": "import elsewhere.typed",
}  # fmt: skip


def test_imports_are_followed_wherever_they_can_run(tmp_path):
    package = tmp_path / "pipeline"
    for name, text in SMALL.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    found = [sources._name(path, package) for path in sources.sources("one", package)]
    assert found == [
        "methods/any.py", "room/__init__.py", "room/deep.py", "room/inner.py", "spare.py",
        "stages/near.py", "stages/one.py", "untyped.py",
    ]  # fmt: skip


def test_it_is_fast_and_loads_no_engine():
    script = (
        "import sys, time; from pipeline.stages import STAGES; "
        "from pipeline.stages.sources import code; began = time.process_time(); "
        "[code(stage.name) for stage in STAGES]; "
        "print(time.process_time() - began, {'torch', 'numpy', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        cwd=PACKAGE.parent,
    )  # fmt: skip
    seconds, _, loaded = done.stdout.strip().partition(" ")
    assert float(seconds) < 1
    assert loaded == "set()"
