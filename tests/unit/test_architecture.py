"""The floors of the house, and that what is written about it is true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pipeline"

#: A room imports only from floors below its own; rooms of one floor don't know each other.
FLOORS = [
    {"cli"},
    {"search"},
    {"stages", "report"},
    {"training", "tracking"},
    {"methods", "quantizers", "exporters", "profilers"},
    {"models", "data"},
    {"graph"},
    {"core"},
]
#: Off to the side: ships to a device, imports nothing of ours, may be used from anywhere.
SIDE = "runtime"
#: What else runs on a device: for all of it, and for what only one file there may ask for.
ON_DEVICES = {"numpy", "PIL"}
ONLY_THERE = {"http_server.py": {"waitress"}, "serving.py": {"waitress", "multipart"},
              "uploads.py": {"multipart"}}  # fmt: skip
HEAVY = {"torch", "torchvision", "tensorflow", "onnx", "onnxruntime", "numpy", "onnx2tf",
         "lightning_fabric", "tensorboardX", "tensorboard", "mlflow"}  # fmt: skip


def rooms() -> set[str]:
    return {p.name for p in PACKAGE.iterdir() if p.is_dir() and (p / "__init__.py").is_file()}


def imports(path: Path) -> set[str]:
    """Return every module a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def floor(room: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if room in names)


def sources(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_is_on_a_floor() -> None:
    assert rooms() == {name for names in FLOORS for name in names} | {SIDE}


@pytest.mark.parametrize("room", sorted(name for names in FLOORS for name in names))
def test_a_room_imports_only_from_the_floors_below(room: str) -> None:
    files = sources(room)
    assert files
    wrong = []
    for path in files:
        for module in imports(path):
            parts = module.split(".")
            if parts[0] != "pipeline" or len(parts) < 2 or parts[1] in (room, SIDE):
                continue
            # The command line has no floor above it and no one it must not know.
            if floor(parts[1]) <= floor(room):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    # A run ends with its report: the one door between two rooms of a floor.
    allowed = {"pipeline/stages/runner.py imports pipeline.report"}
    assert set(wrong) <= allowed, wrong


def test_runtime_imports_nothing_of_ours_but_itself() -> None:
    files = sources(SIDE)
    assert files
    for path in files:
        ours = {m for m in imports(path) if m.split(".")[0] == "pipeline"}
        assert all(m.startswith("pipeline.runtime") for m in ours), path


def test_runtime_imports_only_what_a_board_has() -> None:
    """Engines and OpenCV are asked for by name where they are needed, and may be missing."""
    for path in sources(SIDE):
        theirs = {m.split(".")[0] for m in imports(path)}
        known = ON_DEVICES | ONLY_THERE.get(path.name, set()) | {"pipeline"}
        assert theirs - known <= sys.stdlib_module_names, path


def test_only_serve_loads_a_server() -> None:
    code = (
        "import sys, pipeline.runtime.serving, pipeline.runtime.web; "
        "print(sorted({'waitress', 'multipart', 'cv2', 'onnxruntime', 'ai_edge_litert'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_runtime_is_written_for_older_pythons() -> None:
    """Boards have Python 3.9: no newer syntax, and none of what came to calls and types."""
    for path in sources(SIDE):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        assert "from __future__ import annotations" in path.read_text(encoding="utf-8") or (
            path.name == "__init__.py"
        )
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Match), path
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            given = {keyword.arg for keyword in node.keywords}
            assert not (name == "zip" and "strict" in given), f"{path}:{node.lineno}"
            assert not (name == "dataclass" and given & {"slots", "kw_only"}), path
            union = name == "isinstance" and isinstance(node.args[1], ast.BinOp)
            assert not union, f"{path}:{node.lineno}"


def test_core_knows_no_engine() -> None:
    for path in sources("core"):
        assert not {m.split(".")[0] for m in imports(path)} & HEAVY, path


def test_a_stage_never_imports_another_stage() -> None:
    from pipeline.stages import STAGES

    names = {stage.name for stage in STAGES}
    for name in names:
        found = imports(PACKAGE / "stages" / f"{name}.py")
        assert not {m for m in found if m.removeprefix("pipeline.stages.") in names}


def test_stages_are_short() -> None:
    from pipeline.stages import STAGES

    for stage in STAGES:
        lines = (
            (PACKAGE / "stages" / f"{stage.name}.py").read_text(encoding="utf-8").count("\n")
        )
        assert lines <= 160, f"{stage.name}: {lines} lines"


def test_no_room_has_a_drawer_for_odds_and_ends() -> None:
    names = {path.name for path in PACKAGE.rglob("*.py")}
    assert names
    assert not names & {"utils.py", "helpers.py", "common.py", "misc.py"}


def test_nothing_runs_a_shell_or_unpickles() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "shell=True" not in text, path
        assert "os.system" not in text, path
        assert not {"pickle", "dill", "cloudpickle"} & imports(path), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"


def test_every_test_asserts_or_expects_an_error() -> None:
    """A test that asserts nothing passes whatever happens."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    assert len(files) > 10
    functions = [
        (path.relative_to(ROOT), node)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]
    asserting: set[str] = set()
    for _ in range(3):  # a check may call a check that calls the one that asserts
        asserting |= {f.name for _, f in functions if _asserts(f, asserting)}
    tests = [(path, f) for path, f in functions if f.name.startswith("test")]
    assert [f"{path}::{f.name}" for path, f in tests if not _asserts(f, asserting)] == []


def _asserts(function: ast.FunctionDef, asserting: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert | ast.Raise):
            return True
        if isinstance(node, ast.Call):
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            if name in asserting or name.startswith("assert_") or name in ("raises", "fail"):
                return True
    return False


def test_public_names() -> None:
    import pipeline

    assert pipeline.__all__ == ["Recipe", "compact_checkpoint", "run"]
    assert pipeline.Recipe.__module__ == "pipeline.core.recipe"
    assert pipeline.compact_checkpoint.__module__ == "pipeline.stages.standalone"
    assert pipeline.run.__module__ == "pipeline.stages"


def test_importing_the_package_loads_no_engine() -> None:
    code = (
        "import sys, pipeline; from pipeline import Recipe, run; Recipe.load('quickstart'); "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_drawn_tree_is_the_real_one() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^    ([a-z]+)/ ", text, flags=re.MULTILINE))
    assert rooms() - {"cli"} <= drawn | {"cli"}
    assert drawn <= rooms() | {"recipes"}


def test_documents_name_no_missing_file() -> None:
    for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / link).exists(), f"{name} links to {link}"
