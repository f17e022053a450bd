"""The project works from its wheel, outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaged_run import finished_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next(folder.glob("pare-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def pare(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wheel's own command line; its folder comes before the checkout's."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
    )


def test_wheel_holds_targets_recipes_and_the_template(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    targets = {path.name for path in (ROOT / "targets").iterdir()}
    assert {name for name in targets if f"pipeline/_targets/{name}" not in names} == set()
    assert {"pipeline/recipes/quickstart.toml", "pipeline/recipes/cifar10.toml"} <= names
    assert {"pipeline/report/template.html", "pipeline/py.typed"} <= names
    assert "pipeline/report/schema.json" in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


def test_wheel_holds_what_images_are_built_from(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {
        p.relative_to(ROOT / "docker") for p in (ROOT / "docker").rglob("*") if p.is_file()
    }
    wanted = {f"pipeline/_docker/{path}" for path in files}
    assert {"pipeline/_docker/Dockerfile.litert", "pipeline/_docker/lock/litert.txt"} <= wanted
    assert wanted - names == set()


def test_wheel_brings_both_programs(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entries,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    told = archive.read(entries).decode()
    assert "pare = pipeline.cli:main" in told
    assert "pare-runtime = pipeline.runtime.__main__:run" in told


def test_targets_are_listed(installed: Path, tmp_path: Path) -> None:
    done = pare(installed, tmp_path, "list", "targets")
    assert done.returncode == 0, done.stderr
    assert "raspberry-pi-4b" in done.stdout


def test_it_is_the_wheel_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import pipeline; print(pipeline.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env=environment, check=True,
    )  # fmt: skip
    assert done.stdout.strip().startswith(str(installed))


def test_a_context_is_written_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    run = finished_run(tmp_path, {"raspberry-pi-4b": "model.float32.onnx"})
    done = pare(
        installed, tmp_path, "package", str(run), "--target", "raspberry-pi-4b",
        "--context-only",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    context = run / "packages" / "raspberry-pi-4b" / "context"
    assert (context / "Dockerfile").is_file()
    assert (context / "lock" / "onnxruntime.txt").is_file()


def test_a_recipe_runs_through_all_stages(installed: Path, tmp_path: Path) -> None:
    small = ["--set", "train.epochs=2", "--set", "model.width=8", "--set", "model.hidden=32"]
    limits = ["--set", "export.min_agreement=0.0"]  # an untrained network agrees with nothing
    done = pare(installed, tmp_path, "run", "--quiet", *small, *limits)
    assert done.returncode in (0, 3), done.stderr
    assert (tmp_path / "runs" / "quickstart" / "report.html").is_file()
