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
from pipeline.core.plan import Demand, Kept, SchemePlan
from pipeline.core.plugins import EXPORTERS, QUANTIZERS
from pipeline.core.signature import Signature
from pipeline.exporters.accuracy_control import mixed
from pipeline.runtime.engines import open_model

KEYS = sorted(EXPORTERS.plugins())
NEEDS = {
    "onnx": ["onnx", "onnxruntime"],
    "tflite_onnx2tf": ["tensorflow", "onnx2tf", "ai_edge_litert"],
    "tflite_litert": ["litert_torch", "ai_edge_quantizer", "ai_edge_litert"],
}
#: Of the largest logit, by the type of the weights.
LOSS = {"float32": 1e-5, "float16": 0.005, "int8": 0.05, "int4": 0.3}
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
    assert {"onnx", "tflite_litert", "tflite_onnx2tf"} <= set(KEYS)
    assert all(plugin.help for plugin in EXPORTERS.plugins().values())


@pytest.fixture(scope="module", params=KEYS)
def exported(request, tmp_path_factory):
    absent = [name for name in NEEDS.get(request.param, []) if find_spec(name) is None]
    if absent:
        pytest.skip(f"not installed: {', '.join(absent)}")
    exporter = EXPORTERS.load(request.param)[0]()
    schemes = [QUANTIZERS.load(key)[0] for key in sorted(exporter.SCHEMES)]
    plans = [scheme.plan(exporter.FORMAT) for scheme in schemes]
    plans += variants(exporter)
    folder = tmp_path_factory.mktemp(request.param)
    files = exporter.write(network(), plans, SIGNATURE, IMAGES, folder, 240)
    return exporter.FORMAT, plans, folder, files


def variants(exporter) -> list[SchemePlan]:
    """Return plans of the other kinds of int8 file that the exporter offers."""
    int8 = QUANTIZERS.load("int8")[0]
    demands = [Demand(granularity="per-tensor")]
    demands += [Demand(activations="uint8")] if exporter.FORMAT == "onnx" else []
    if exporter.FORMAT == "tflite":
        demands += [Demand(io_dtype="uint8"), Demand(io_dtype="float32")]
    plans = [int8.plan(exporter.FORMAT, demand) for demand in demands]
    kept = (Kept(layer="0", why="to be seen"),)
    return [*plans, mixed(int8.plan(exporter.FORMAT), kept)] if exporter.MIXES else plans


def test_every_scheme_of_its_format_gives_a_file_that_runs(exported) -> None:
    key, plans, folder, files = exported
    with torch.no_grad():
        expected = network()(torch.from_numpy(IMAGES)).numpy()
    assert list(files) == [plan.name for plan in plans]
    assert "float32" in files
    for plan in plans:
        path = files[plan.name]
        assert path == folder / f"model.{plan.name}.{key}", path
        engine = open_model(path)
        assert engine.format == key
        assert (engine.input.name, engine.output.name) == ("input", "logits")
        assert (engine.input.dtype, engine.output.dtype) == (
            plan.input_dtype,
            plan.output_dtype,
        )
        allowed = LOSS.get(plan.weights, 0.05) * np.abs(expected).max()
        worst = np.abs(engine.run(IMAGES) - expected).max()
        assert worst <= allowed
        # The twin: images turned by half are told apart, so the limit can see.
        assert np.abs(engine.run(IMAGES[..., ::-1, ::-1].copy()) - expected).max() > allowed


def test_every_file_has_its_side_car(exported) -> None:
    key, plans, folder, files = exported
    for plan in plans:
        side_car = json.loads((folder / f"{files[plan.name].name}.json").read_text())
        shape = [1, 2, 6, 4] if side_car["input_layout"] == "NCHW" else [1, 6, 4, 2]
        assert side_car["input_shape"] == shape
        assert side_car["format"] == key
        assert side_car["dtype"] == plan.dtype
        assert side_car["input_dtype"] == plan.input_dtype
        assert side_car["output_dtype"] == plan.output_dtype
        assert side_car.get("layers_in_float", []) == [one.layer for one in plan.kept]
        assert side_car["made_by"]
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
    plan = QUANTIZERS.load("float32")[0].plan(exporter.FORMAT)
    with pytest.raises(PareError, match=r"Call model\.eval\(\) first"):
        exporter.write(network().train(), [plan], SIGNATURE, IMAGES, tmp_path, 9)
