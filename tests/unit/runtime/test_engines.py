"""Engines: one way to run a file, whichever format it has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.runtime import sessions
from pipeline.runtime.engines import OnnxEngine, open_model
from pipeline.runtime.tensors import EngineError, TensorSpec


def linear_onnx(path: Path, batch: int | None, outputs: int = 1, **props: str) -> Path:
    """Write flatten and matrix product: ``logits[k]`` weighs pixel ``i`` by ``i + k``."""
    weight = np.float32([[i + k for k in range(3)] for i in range(12)])
    out = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch or "n", 3])
        for name in ("logits", "again")[:outputs]
    ]
    nodes = [helper.make_node("Flatten", ["input"], ["flat"])]
    nodes += [helper.make_node("MatMul", ["flat", "w"], [value.name]) for value in out]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch or "n", 2, 2, 3])
    graph = helper.make_graph(nodes, "g", [image], out, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    helper.set_model_props(model, props)
    onnx.save(model, path)
    return path


def expected(images: np.ndarray) -> np.ndarray:
    weight = np.float32([[i + k for k in range(3)] for i in range(12)])
    return images.reshape(len(images), 12) @ weight


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("count", [0, 1, 5, 70])
def test_any_number_of_images_through_any_batch(tmp_path: Path, batch, count) -> None:
    images = np.random.default_rng(0).standard_normal((count, 2, 2, 3)).astype(np.float32)
    engine = open_model(linear_onnx(tmp_path / "m.onnx", batch))
    logits = engine.run(images)
    assert logits.shape == (count, 3)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected(images), rtol=1e-5, atol=1e-5)


def test_onnx_engine_states_what_it_is(tmp_path: Path) -> None:
    import onnxruntime

    engine = open_model(linear_onnx(tmp_path / "m.onnx", None, output_step="0.25"))
    assert isinstance(engine, OnnxEngine)
    assert (engine.format, engine.runtime) == ("onnx", "onnxruntime")
    assert engine.runtime_version == onnxruntime.__version__
    assert engine.input == TensorSpec("input", (None, 2, 2, 3), "float32", layout="NCHW")
    assert engine.output == TensorSpec("logits", (None, 3), "float32", layout="NC")
    assert engine.output_step == 0.25


def test_a_file_that_states_no_step_has_none(tmp_path: Path) -> None:
    assert open_model(linear_onnx(tmp_path / "m.onnx", 1)).output_step is None
    path = linear_onnx(tmp_path / "n.onnx", 1, output_step="null")
    assert open_model(path).output_step is None


def test_invoke_runs_on_zeros_and_then_on_the_last_input(tmp_path: Path) -> None:
    engine = open_model(linear_onnx(tmp_path / "m.onnx", None), threads=2)
    engine.invoke()
    assert not engine._get().any()
    logits = engine.run(np.ones((1, 2, 2, 3), np.float32))
    engine.invoke()
    np.testing.assert_array_equal(engine._get(), logits)


class TestTensorSpec:
    def test_integers_round_and_clip_to_their_type(self) -> None:
        values = np.float32([-1000, -0.26, 0, 0.24, 0.26, 1000])
        signed = TensorSpec("x", (6,), "int8", scale=0.5, zero_point=3)
        assert signed.encode(values).tolist() == [-128, 2, 3, 3, 4, 127]
        unsigned = TensorSpec("x", (6,), "uint8", scale=0.5, zero_point=128)
        assert unsigned.encode(values).tolist() == [0, 127, 128, 128, 129, 255]
        wide = TensorSpec("x", (6,), "int16", scale=0.5, zero_point=0)
        assert wide.encode(values).tolist() == [-2000, -1, 0, 0, 1, 2000]
        assert wide.encode(values).dtype == np.int16

    def test_decoding_undoes_encoding_to_half_a_step(self) -> None:
        spec = TensorSpec("x", (9,), "int8", scale=0.1, zero_point=-7)
        values = np.linspace(-3, 3, 9, dtype=np.float32)
        back = spec.decode(spec.encode(values))
        assert np.abs(back - values).max() <= 0.05 + 1e-6
        # The twin: read with a zero point one step off, the fault is seen.
        off = TensorSpec("x", (9,), "int8", scale=0.1, zero_point=-6)
        assert np.abs(off.decode(spec.encode(values)) - values).max() > 0.05 + 1e-6

    def test_half_precision_only_changes_type(self) -> None:
        spec = TensorSpec("x", (1,), "float16")
        assert spec.encode(np.float32([1.5])).dtype == np.float16
        assert spec.decode(np.float16([1.5])).dtype == np.float32


class TestRefusals:
    def test_unknown_ending(self) -> None:
        with pytest.raises(
            EngineError, match=r"no engine for '\.h5'\. Known: \.onnx, \.tflite"
        ):
            open_model(Path("model.h5"))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match=r"no file at .*absent\.onnx\. Check the path"):
            open_model(tmp_path / "absent.onnx")

    def test_no_threads(self, tmp_path: Path) -> None:
        with pytest.raises(EngineError, match="threads = 0: an engine needs at least 1"):
            open_model(linear_onnx(tmp_path / "m.onnx", 1), threads=0)

    @pytest.mark.parametrize("ending", ["onnx", "tflite"])
    def test_broken_file(self, tmp_path: Path, ending: str) -> None:
        if ending == "tflite":
            pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
        path = tmp_path / f"m.{ending}"
        path.write_bytes(b"not a model at all")
        with pytest.raises(EngineError, match=r"cannot load it .* export it again"):
            open_model(path)

    @pytest.mark.parametrize("ending", ["onnx", "tflite"])
    def test_missing_engine(self, tmp_path, monkeypatch, ending: str) -> None:
        def absent(name: str) -> None:
            raise ModuleNotFoundError(f"No module named {name!r}")

        monkeypatch.setattr(sessions, "import_module", absent)
        (tmp_path / f"m.{ending}").touch()
        with pytest.raises(EngineError, match=r"not installed\. Run: pip install"):
            open_model(tmp_path / f"m.{ending}")

    def test_two_outputs(self, tmp_path: Path) -> None:
        path = linear_onnx(tmp_path / "m.onnx", 1, outputs=2)
        with pytest.raises(EngineError, match="has 2 outputs; an image classifier has one"):
            open_model(path)

    @pytest.mark.parametrize("shape", [(1, 2, 2, 4), (1, 3, 2, 2), (2, 2, 3)])
    def test_wrong_image_shape(self, tmp_path: Path, shape) -> None:
        engine = open_model(linear_onnx(tmp_path / "m.onnx", None))
        with pytest.raises(EngineError, match=r"takes images of shape \[2, 2, 3\]"):
            engine.run(np.zeros(shape, np.float32))

    def test_wrong_image_type(self, tmp_path: Path) -> None:
        engine = open_model(linear_onnx(tmp_path / "m.onnx", None))
        with pytest.raises(EngineError, match="images are uint8; give normalised float32"):
            engine.run(np.zeros((1, 2, 2, 3), np.uint8))

    def test_an_engine_that_fails_midway(self, tmp_path, monkeypatch) -> None:
        engine = open_model(linear_onnx(tmp_path / "m.onnx", None))

        def burst() -> None:
            raise RuntimeError("kernel burst")

        monkeypatch.setattr(engine, "invoke", burst)
        with pytest.raises(EngineError, match=r"onnxruntime .* failed .*kernel burst"):
            engine.run(np.zeros((1, 2, 2, 3), np.float32))


def test_the_room_loads_no_engine_and_nothing_else_of_ours() -> None:
    code = (
        "import sys, pipeline.runtime.engines as e\n"
        "ours = {m for m in sys.modules if m.startswith('pipeline.')}\n"
        "print(sorted(ours), 'torch' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    room = [
        "pipeline.runtime",
        *(f"pipeline.runtime.{n}" for n in ("delegates", "engines", "sessions", "tensors")),
    ]
    assert done.stdout.strip() == f"{room} False False"
