"""What every exporter promises, over the room's own listing."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import PareError
from pipeline.core.plugins import EXPORTERS, QUANTIZERS
from pipeline.core.signature import Signature
from pipeline.runtime.engines import open_model

KEYS = sorted(EXPORTERS.plugins())
NEEDS = {
    "onnx": ["onnx", "onnxruntime"],
    "tflite": ["tensorflow", "onnx2tf", "ai_edge_litert"],
}
SIGNATURE = Signature(
    channels=2,
    height=6,
    width=4,
    mean=[0.1, 0.2],
    std=[0.3, 0.4],
    classes=["cat", "dog", "eel"],
    producer="pare 0.0",
    recipe_hash="cafe",
)


def network() -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Conv2d(2, 64, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(384, 3)).eval()


IMAGES = np.random.default_rng(2).standard_normal((32, 2, 6, 4)).astype(np.float32)


def test_the_listing_is_known() -> None:
    assert {"onnx", "tflite"} <= set(KEYS)
    assert all(plugin.help for plugin in EXPORTERS.plugins().values())


@pytest.fixture(scope="module", params=KEYS)
def exported(request, tmp_path_factory):
    absent = [name for name in NEEDS.get(request.param, []) if find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    exporter = EXPORTERS.load(request.param)[0]()
    schemes = [QUANTIZERS.load(key)[0] for key in sorted(QUANTIZERS.plugins())]
    plans = [s.plan(request.param) for s in schemes if request.param in s.FORMATS]
    folder = tmp_path_factory.mktemp(request.param)
    files = exporter.write(network(), plans, SIGNATURE, IMAGES, folder, 240)
    return request.param, plans, folder, files


def test_every_scheme_of_its_format_gives_a_file_that_runs(exported) -> None:
    key, plans, folder, files = exported
    with torch.no_grad():
        expected = network()(torch.from_numpy(IMAGES)).numpy()
    assert list(files) == [plan.scheme for plan in plans]
    assert "float32" in files
    for plan in plans:
        path = files[plan.scheme]
        assert path == folder / f"model.{plan.scheme}.{key}"
        engine = open_model(path)
        assert engine.format == key
        assert (engine.input.name, engine.output.name) == ("input", "logits")
        allowed = (1e-5 if plan.weights == "float32" else 0.05) * np.abs(expected).max()
        worst = np.abs(engine.run(IMAGES) - expected).max()
        assert worst <= allowed
        # The twin: images turned by half are told apart, so the limit can see.
        assert np.abs(engine.run(IMAGES[..., ::-1, ::-1].copy()) - expected).max() > allowed


def test_every_file_has_its_side_car(exported) -> None:
    key, plans, folder, files = exported
    for plan in plans:
        side_car = json.loads((folder / f"{files[plan.scheme].name}.json").read_text())
        shape = [1, 2, 6, 4] if side_car["input_layout"] == "NCHW" else [1, 6, 4, 2]
        assert side_car["input_shape"] == shape
        assert side_car["format"] == key
        assert side_car["dtype"] == plan.dtype
        assert side_car["io_dtype"] == plan.io_dtype
        assert side_car["classes"] == SIGNATURE.classes
        assert (side_car["mean"], side_car["std"]) == (SIGNATURE.mean, SIGNATURE.std)


def test_nothing_else_is_left(exported) -> None:
    _, _, folder, files = exported
    names = {path.name for path in files.values()}
    expected = names | {f"{name}.json" for name in names} | {"logs"}
    assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.parametrize("key", KEYS)
def test_training_mode_is_refused(key: str, tmp_path: Path) -> None:
    exporter = EXPORTERS.load(key)[0](opset=18)
    plan = QUANTIZERS.load("float32")[0].plan(key)
    with pytest.raises(PareError, match=r"Call model\.eval\(\) first"):
        exporter.write(network().train(), [plan], SIGNATURE, IMAGES, tmp_path, 9)
