"""The main job on real colour images: a part of CIFAR-10 as JPEG files in class folders."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline import Recipe, run
from pipeline.core.errors import OverBudget
from pipeline.core.rundir import read_json

ARCHIVE = (
    Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
)
SHA256 = "6a5b580f6e6c7f6a9d3dd7c047bbb633ab1a7a4b20a58331f450a68f2113dd3c"
PER_CLASS = {"train": 40, "test": 20}

pytestmark = [
    pytest.mark.skipif(not ARCHIVE.is_file(), reason="the CIFAR-10 JPEG archive is not here"),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow") is None,
        reason="the tflite extra is not installed",
    ),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert hashlib.sha256(ARCHIVE.read_bytes()).hexdigest() == SHA256
    folder = tmp_path_factory.mktemp("cifar10")
    seen: Counter[str] = Counter()
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if not member.isfile() or len(parts) < 3:
                continue
            place = "/".join(parts[-3:-1])
            if seen[place] < PER_CLASS[parts[-3]]:
                seen[place] += 1
                archive.extract(member, folder, filter="data")
    assert len(seen) == 20
    return next(path.parent for path in folder.rglob("train"))


def test_resnet8_goes_through_every_stage(images: Path, tmp_path: Path) -> None:
    overrides = [
        f"data.name=image-folder:{images}", "model.name=resnet8", "model.width=8",
        "method.name=gradual", "budget.weights=0.3", "train.epochs=2", "train.batch_size=32",
        "targets=['smart-camera-imx8mp']", "export.min_agreement=0.0",
    ]  # fmt: skip
    with contextlib.suppress(OverBudget):  # two epochs on a few images need not be enough
        run(Recipe.load("quickstart", overrides), out=tmp_path)
    report = read_json(tmp_path / "report.json")
    assert report["data"]["shape"] == [3, 32, 32]
    assert len(report["data"]["classes"]) == 10
    assert report["data"]["test"] == 200
    (entry,) = report["files"]
    assert (entry["file"], entry["state"]) == ("model.int8-per-tensor.tflite", "made")
    sizes = [
        c["shape"] for c in report["equivalence"]["comparisons"] if "another" in c["what"]
    ]
    assert sizes == [[2, 3, 48, 64]] * 2
    assert all(c["difference"] <= c["limit"] for c in report["equivalence"]["comparisons"])
