"""ONNX files: the network's outputs, its names, and not a word about this machine."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exported_nets import Residual, flat_net, judge, random_images, reference, signature, spoil
from onnxruntime import quantization
from torch import Tensor, nn

from pipeline.core.errors import PareError
from pipeline.core.plan import Demand, Kept
from pipeline.exporters import ExportFailure, to_onnx
from pipeline.exporters.accuracy_control import mixed
from pipeline.exporters.to_onnx import ToOnnx
from pipeline.quantizers.float16 import Float16
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int8 import Int8
from pipeline.runtime.engines import open_model

PLANS = [Float32.plan("onnx"), Int8.plan("onnx")]


@pytest.fixture(scope="module", params=["flat", "residual"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    flat = request.param == "flat"
    model = flat_net() if flat else Residual().eval()
    images = random_images(1, 8) if flat else random_images(3, 32)
    sign = signature(1, 8, batch=None) if flat else signature(3, 32)
    files = ToOnnx().write(model, PLANS, sign, images, folder, 60)
    return model, images, sign, folder, files


def test_files_pass_and_a_spoiled_network_does_not(exported) -> None:
    model, images, _, _, files = exported
    assert list(files) == ["float32", "int8"]
    assert judge(files["float32"], "fp32", images, reference(model, images)).passed
    assert judge(files["int8"], "int8", images, reference(model, images)).passed
    for dtype, file in (("fp32", files["float32"]), ("int8", files["int8"])):
        spoiled = spoil(model, images, dtype)
        assert not judge(file, dtype, images, reference(spoiled, images)).passed


def test_int8_difference_is_known_in_steps(exported) -> None:
    model, images, _, _, files = exported
    parity = judge(files["int8"], "int8", images, reference(model, images))
    assert parity.output_scale is not None
    assert 0 < parity.max_steps < 20


def test_names_shapes_and_opset(exported) -> None:
    _, _, sign, _, files = exported
    for path in files.values():
        engine = open_model(path)
        assert engine.input.shape == tuple(sign.input_shape("NCHW"))
        assert (engine.input.name, engine.output.name) == ("input", "logits")
        assert (engine.input.dtype, engine.output.dtype) == ("float32", "float32")
        proto = onnx.load(path)
        assert {o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")} == {18}


def test_side_car_and_metadata_props_say_the_same(exported) -> None:
    _, _, sign, folder, files = exported
    for scheme, path in files.items():
        side_car = json.loads((folder / f"{path.name}.json").read_text())
        props = {p.key: p.value for p in onnx.load(path).metadata_props}
        assert side_car["input_name"] == "input"
        assert side_car["input_layout"] == "NCHW"
        assert side_car["input_shape"] == sign.input_shape("NCHW")
        assert side_car["mean"] == sign.mean
        assert side_car["std"] == sign.std
        assert side_car["classes"] == sign.classes
        assert side_car["dtype"] == {"float32": "fp32", "int8": "int8"}[scheme]
        assert (side_car["producer"], side_car["recipe_hash"]) == ("pare 0.0", "f00d")
        assert props == {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in side_car.items()
        }


def test_what_a_file_does_not_have_is_not_written_down(exported, tmp_path: Path) -> None:
    model, images, sign, _, _ = exported
    bare = sign.model_copy(update={"licence": None})
    path = ToOnnx().write(model, [Float32.plan("onnx")], bare, images, tmp_path, 60)["float32"]
    absent = {"licence", "granularity", "output_step"}
    assert not absent & json.loads((tmp_path / f"{path.name}.json").read_text()).keys()
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert not absent & props.keys()
    assert "null" not in props.values()


def test_int8_weights_have_a_scale_a_channel(exported, tmp_path: Path) -> None:
    model, images, sign, _, files = exported
    plan = Int8.plan("onnx", Demand(granularity="per-tensor"))
    single = ToOnnx().write(model, [plan], sign, images, tmp_path, 60)["int8-per-tensor"]

    def most_scales(path: Path) -> int:
        constants = onnx.load(path).graph.initializer
        return max(int(np.prod(c.dims)) for c in constants if c.name.endswith("_scale"))

    assert most_scales(files["int8"]) in (16, 12)
    assert most_scales(single) == 1


def test_files_say_nothing_about_this_machine(exported) -> None:
    _, _, _, folder, files = exported
    for path in files.values():
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert str(Path(__file__).parent).encode() not in content
        assert str(folder).encode() not in content


def test_only_finished_files_are_left(exported) -> None:
    _, _, _, folder, files = exported
    names = {path.name for path in files.values()}
    expected = names | {f"{name}.json" for name in names} | {"logs"}
    assert {path.name for path in folder.iterdir()} == expected


def test_the_same_network_gives_the_same_bytes_and_stays_as_it_was(tmp_path: Path) -> None:
    model, images = flat_net(), random_images(1, 8)
    before = copy.deepcopy(model.state_dict())
    kept = images.copy()
    first = ToOnnx().write(model, PLANS, signature(1, 8), images, tmp_path / "a", 60)
    again = ToOnnx().write(model, PLANS, signature(1, 8), images, tmp_path / "b", 60)
    for scheme in ("float32", "int8"):
        assert first[scheme].read_bytes() == again[scheme].read_bytes()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training
    np.testing.assert_array_equal(images, kept)


def test_opset_is_a_parameter(tmp_path: Path) -> None:
    files = ToOnnx(opset=20).write(
        flat_net(), PLANS[:1], signature(1, 8), random_images(1, 8), tmp_path, 60
    )
    assert onnx.load(files["float32"]).opset_import[0].version == 20


class Branching(nn.Module):
    """Cannot be exported: what it does depends on what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] if float(x.sum()) > 0 else x.flatten(1)[:, 5:10]


def test_a_network_that_cannot_be_exported_fails_with_its_log(tmp_path: Path) -> None:
    images = random_images(1, 8)
    files = ToOnnx().write(Branching().eval(), PLANS, signature(1, 8), images, tmp_path, 60)
    assert set(files) == {"float32", "int8"}
    for failure in files.values():
        assert isinstance(failure, ExportFailure)
        assert "replace it in the network" in failure.reason
        assert "Traceback" in failure.log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


class Endless(nn.Module):
    """Gives infinity, which a parity check could overlook."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :5] / 0.0


def test_a_file_that_gives_infinity_does_not_land(tmp_path: Path) -> None:
    images = np.abs(random_images(1, 8))
    files = ToOnnx().write(Endless().eval(), PLANS[:1], signature(1, 8), images, tmp_path, 60)
    assert isinstance(files["float32"], ExportFailure)
    assert "an output is not finite" in files["float32"].reason
    assert not list(tmp_path.glob("model.*"))


def test_the_signature_must_fit_the_network(tmp_path: Path) -> None:
    sign = signature(1, 8).model_copy(update={"classes": ["a", "b"]})
    files = ToOnnx().write(flat_net(), PLANS[:1], sign, random_images(1, 8), tmp_path, 60)
    assert "the output shape is [1, 5], it should be [1, 2]" in files["float32"].reason


class TestRefusals:
    def write(self, tmp_path: Path, model=None, plans=PLANS, images=None) -> None:
        images = random_images(1, 8) if images is None else images
        ToOnnx().write(model or flat_net(), plans, signature(1, 8), images, tmp_path, 60)

    def test_training_mode(self, tmp_path: Path) -> None:
        with pytest.raises(PareError, match=r"training mode\. Call model\.eval\(\) first"):
            self.write(tmp_path, model=flat_net().train())

    def test_another_format(self, tmp_path: Path) -> None:
        with pytest.raises(
            PareError, match="a plan is for 'tflite', this exporter writes 'onnx'"
        ):
            self.write(tmp_path, plans=[Int8.plan("tflite")])

    def test_a_scheme_twice(self, tmp_path: Path) -> None:
        with pytest.raises(PareError, match="planned twice in int8, int8"):
            self.write(tmp_path, plans=[PLANS[1], Int8.plan("onnx")])

    def test_images_of_another_shape(self, tmp_path: Path) -> None:
        with pytest.raises(PareError, match=r"shape \[40, 3, 8, 8\].*\[n, 1, 8, 8\]"):
            self.write(tmp_path, images=random_images(3, 8))

    def test_images_of_another_type(self, tmp_path: Path) -> None:
        with pytest.raises(PareError, match="calibration images are float64; give float32"):
            self.write(tmp_path, images=random_images(1, 8).astype(np.float64))


def made_by(path: Path) -> list[str]:
    return json.loads(path.with_name(f"{path.name}.json").read_text())["made_by"]


class TestTheOlderExporter:
    """Torch's newer exporter goes first; the older one where its file is not right."""

    def write(self, tmp_path: Path, opset: int = 18):
        images = random_images(1, 8)
        exporter = ToOnnx(opset=opset)
        files = exporter.write(
            flat_net(), PLANS, signature(1, 8, batch=None), images, tmp_path, 60
        )
        logits = reference(flat_net(), images)
        assert all(
            judge(files[plan.name], plan.dtype, images, logits).passed for plan in PLANS
        )
        return files

    def test_the_newer_one_goes_first(self, tmp_path: Path) -> None:
        assert made_by(self.write(tmp_path)["float32"])[0].endswith("dynamo")

    def test_a_file_that_computes_something_else_is_not_believed(
        self, tmp_path: Path, monkeypatch
    ) -> None:
        honest = to_onnx._by_dynamo

        def spoiled(model, *args, **options) -> None:
            honest(spoil(model, random_images(1, 8), "fp32"), *args, **options)

        monkeypatch.setattr(to_onnx, "_by_dynamo", spoiled)
        files = self.write(tmp_path)
        assert made_by(files["float32"])[0].endswith("torchscript")
        assert made_by(files["int8"])[0].endswith("torchscript")

    def test_where_neither_is_right_both_are_told(self, tmp_path: Path, monkeypatch) -> None:
        def broken(*_args, **_options) -> None:
            raise RuntimeError("no such operator")

        monkeypatch.setattr(to_onnx, "_by_dynamo", broken)
        monkeypatch.setattr(to_onnx, "_by_script", broken)
        files = ToOnnx().write(
            flat_net(), PLANS, signature(1, 8), random_images(1, 8), tmp_path, 60
        )
        assert (
            "dynamo: RuntimeError: no such operator; torchscript: Ru" in files["int8"].reason
        )

    def test_an_old_opset_is_its_business(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, opset=15)["float32"]
        assert onnx.load(path).opset_import[0].version == 15
        assert made_by(path)[0].endswith("torchscript")


def test_half_precision_keeps_its_border(tmp_path: Path) -> None:
    plan, images = Float16.plan("onnx"), random_images(1, 8)
    path = ToOnnx().write(flat_net(), [plan], signature(1, 8), images, tmp_path, 60)["float16"]
    engine = open_model(path)
    assert (engine.input.dtype, engine.output.dtype) == ("float32", "float32")
    weights = onnx.load(path).graph.initializer
    assert {w.data_type for w in weights if len(w.dims) > 1} == {onnx.TensorProto.FLOAT16}
    error = np.abs(engine.run(images) - reference(flat_net(), images)).max()
    assert 0 < error < 0.01


@pytest.mark.parametrize(
    ("activations", "kind"),
    [("uint8", onnx.TensorProto.UINT8), ("int8", onnx.TensorProto.INT8)],
)
def test_activations_have_the_sign_that_the_processor_multiplies(
    tmp_path: Path, activations, kind
) -> None:
    plan = Int8.plan("onnx", Demand(activations=activations))
    files = ToOnnx().write(
        flat_net(), [plan], signature(1, 8), random_images(1, 8), tmp_path, 60
    )
    proto = onnx.load(files[plan.name])
    zeros = {c.name: c.data_type for c in proto.graph.initializer}
    first = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear")
    assert zeros[first.input[2]] == kind


def scales(path: Path) -> list[float]:
    """Return the scales of the activations, in the order of the graph."""
    proto = onnx.load(path)
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in proto.graph.initializer}
    steps = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    return [float(stored[step.input[1]].max()) for step in steps]


def test_ranges_are_taken_as_the_plan_says(tmp_path: Path, monkeypatch) -> None:
    images = random_images(1, 8, n=400)
    images[0, 0, 0, 0] = 1000  # one pixel of 25,600 far outside
    found, asked, real = {}, [], quantization.quantize_static

    def quantize(*args, **options) -> None:
        asked.append(options["calibrate_method"].name)
        real(*args, **options)

    monkeypatch.setattr(quantization, "quantize_static", quantize)
    for method in ToOnnx.METHODS:
        folder = tmp_path / method
        plan = Int8.plan("onnx", method=method)
        path = ToOnnx().write(flat_net(), [plan], signature(1, 8), images, folder, 60)["int8"]
        assert json.loads((folder / f"{path.name}.json").read_text())["calibration"] == method
        found[method] = scales(path)
    # Only min-max gives the whole range of the input to one pixel.
    assert found["min-max"][0] > 3 > 0.1 > found["percentile"][0]
    assert asked == ["MinMax", "Percentile", "Entropy"]


def test_weights_stand_beside_a_file_that_could_not_hold_them(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(to_onnx, "_EXTERNAL_FROM", 1000)
    images = random_images(1, 8)
    path = ToOnnx().write(flat_net(), PLANS[:1], signature(1, 8), images, tmp_path, 60)[
        "float32"
    ]
    beside = tmp_path / "model.float32.onnx.data"
    assert beside.stat().st_size > path.stat().st_size
    assert judge(path, "fp32", images, reference(flat_net(), images)).passed


def test_a_fixed_batch_is_calibrated_in_its_own_size(tmp_path: Path) -> None:
    images = random_images(1, 8, n=10)  # the last three are filled up
    sign = signature(1, 8, batch=4)
    path = ToOnnx().write(flat_net(), [Int8.plan("onnx")], sign, images, tmp_path, 60)["int8"]
    assert open_model(path).input.shape[0] == 4
    assert judge(path, "int8", images, reference(flat_net(), images)).passed


class Twins(nn.Module):
    """Two layers of equal weights, which a file stores once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.two.load_state_dict(self.one.state_dict())
        self.head = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).flatten(1))


def test_layers_of_equal_weights_stay_in_float_together(tmp_path: Path) -> None:
    plan = mixed(Int8.plan("onnx"), (Kept(layer="two", why="to be seen"),))
    files = ToOnnx().write(
        Twins().eval(), [plan], signature(1, 8), random_images(1, 8), tmp_path, 60
    )
    graph = onnx.load(files[plan.name]).graph
    rounded = {
        name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.output
    }
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    assert len(convolutions) == 2
    assert not any(n.input[1] in rounded for n in convolutions)
