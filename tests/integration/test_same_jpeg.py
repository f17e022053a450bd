"""The same JPEG gives the same answer in PyTorch, onnxruntime and LiteRT, baked in or not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pipeline.core.plugins import EXPORTERS
from pipeline.core.recipe import DataChoice
from pipeline.core.signature import Signature
from pipeline.data import Dataset, load
from pipeline.exporters.preprocessing import Baked, with_extremes
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int8 import Int8
from pipeline.runtime.engines import Engine, open_model
from pipeline.runtime.images import decode, prepare
from pipeline.runtime.metadata import read_metadata

NEEDS = {"onnx": "onnxruntime", "tflite_litert": "litert_torch", "tflite_onnx2tf": "onnx2tf"}
SIZE = 24


class Padded(nn.Module):
    """Padded at its border, where a normalisation that is folded wrongly shows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Linear(16 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.max_pool2d(torch.relu(self.conv(x)), SIZE // 2)
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Photographs of noise, wider than high, of two classes, as JPEG."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("bird", "fish"):
            (root / split / label).mkdir(parents=True)
            for number in range(8):
                noise = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                image = Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC)
                image.save(root / split / label / f"{number}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def images(folder: Path) -> Dataset:
    return load(DataChoice(name=f"image-folder:{folder}", size=SIZE))


def exported(key: str, images: Dataset, out: Path, *, baked: bool) -> dict[str, Engine]:
    kind = EXPORTERS.load(key)[0]
    network = Padded().eval()
    calibration = images.normalise(images.train.images).numpy()
    plans = [Float32.plan(kind.FORMAT), Int8.plan(kind.FORMAT)]
    if baked:
        network = Baked(network, images.mean, images.std)
        calibration = with_extremes(images.train.images.float().numpy())
        plans = [plan.for_pixels() for plan in plans]
    signature = Signature(
        channels=3,
        height=SIZE,
        width=SIZE,
        mean=images.mean,
        std=images.std,
        classes=["a", "b", "c", "d"],
        preprocessing="baked" if baked else "outside",
        producer="pare",
        recipe_hash="0",
    )
    files = kind().write(network, plans, signature, calibration, out, 240)
    return {name: open_model(path) for name, path in files.items()}


@pytest.mark.parametrize("baked", [False, True], ids=["normalised outside", "baked"])
@pytest.mark.parametrize("key", sorted(NEEDS))
def test_the_same_jpeg_gives_the_same_answer(key, baked, folder, images, tmp_path) -> None:
    if find_spec(NEEDS[key]) is None:
        pytest.skip(f"not installed: {NEEDS[key]}")
    with torch.no_grad():
        expected = Padded().eval()(images.normalise(images.test.images)).numpy()
    files = sorted((folder / "test").rglob("*.jpg"))
    for name, engine in exported(key, images, tmp_path, baked=baked).items():
        facts = read_metadata(tmp_path / f"model.{name}.{engine.format}")
        assert facts["preprocessing"].startswith("raw uint8" if baked else "(pixel")
        shape = facts["input_shape"]
        height, width = shape[2:] if facts["input_layout"] == "NCHW" else shape[1:3]
        found = [
            engine.run(prepare(decode(path, height, width, 3), facts))[0] for path in files
        ]
        limit = (1e-5 if name == "float32" else 0.05) * np.abs(expected).max()
        assert np.abs(np.stack(found) - expected).max() <= limit, name
        # The twin: pixels shown the other way round, or fed by the other rule, are seen.
        other = {**facts, "preprocessing": "" if baked else "raw uint8"}
        spoiled = [
            engine.run(prepare(decode(path, height, width, 3), other))[0] for path in files
        ]
        assert np.abs(np.stack(spoiled) - expected).max() > limit, name


def test_a_baked_integer_file_takes_bytes_as_they_are(images, tmp_path) -> None:
    if find_spec("litert_torch") is None:
        pytest.skip("not installed: litert_torch")
    engine = exported("tflite_litert", images, tmp_path, baked=True)["int8"]
    assert (engine.input.dtype, engine.input.zero_point) == ("uint8", 0)
    assert engine.input.scale == pytest.approx(1, abs=1e-6)
