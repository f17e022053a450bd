"""TFLite by litert-torch: what only this exporter does, and how it ends when it fails."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exported_nets import Residual, random_images, reference, signature

from pipeline.core.errors import PareError
from pipeline.core.plan import Kept
from pipeline.exporters import ExportFailure
from pipeline.exporters.accuracy_control import mixed
from pipeline.exporters.child import MISSING
from pipeline.exporters.flatbuffer import stored_types
from pipeline.exporters.to_tflite_litert import ToTfliteLitert
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int4 import Int4
from pipeline.quantizers.int8 import Int8
from pipeline.quantizers.weight_only import WeightOnly
from pipeline.runtime.engines import open_model

ABSENT = [
    n for n in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert") if not find_spec(n)
]
converts = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")
IMAGES = random_images(3, 32)
INT8 = Int8.plan("tflite")


def keep(*layers: str):
    return mixed(INT8, tuple(Kept(layer=layer, why="to be seen") for layer in layers))


def write(folder: Path, plans, **options):
    exporter = ToTfliteLitert(**options)
    return exporter.write(Residual().eval(), plans, signature(3, 32), IMAGES, folder, 120)


def psnr(path: Path) -> float:
    expected = reference(Residual().eval(), IMAGES)
    error = np.sqrt(np.mean((open_model(path).run(IMAGES) - expected) ** 2))
    return float(20 * np.log10(np.abs(expected).max() / error))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert")
    plans = [Float32.plan("tflite"), INT8, Int4.plan("tflite"), WeightOnly.plan("tflite")]
    return write(folder, [*plans, keep("stem", "head")])


@converts
def test_ranges_are_those_of_all_images_not_a_moving_average(files) -> None:
    engine = open_model(files["int8"])
    assert engine.input.scale == pytest.approx((IMAGES.max() - IMAGES.min()) / 255, rel=1e-3)


@converts
def test_layers_in_float_are_more_exact_than_none(files) -> None:
    assert psnr(files["int8-mixed"]) > psnr(files["int8"]) > psnr(files["int4"])
    assert "int8" in stored_types(files["int8"].read_bytes())
    assert "int8" in stored_types(files["int8-mixed"].read_bytes())


@converts
def test_a_file_with_no_layer_left_in_integers_is_refused(tmp_path: Path) -> None:
    failure = write(tmp_path, [keep("stem", "body", "head")])["int8-mixed"]
    assert "left every weight in float: no tensor is int8" in failure.reason


@converts
def test_weights_alone_leave_the_border_in_float(files) -> None:
    engine = open_model(files["weight_only"])
    assert (engine.input.dtype, engine.output.dtype) == ("float32", "float32")
    assert "int8" in stored_types(files["weight_only"].read_bytes())
    assert "int4" in stored_types(files["int4"].read_bytes())


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PareError, match="'neck' is to stay in float, but no layer has that"):
        write(tmp_path, [keep("neck")])


def test_a_hanging_converter_leaves_no_file(tmp_path: Path) -> None:
    code = "open('model.int8.tflite.part', 'w').write('half'); import time; time.sleep(60)"
    failure = ToTfliteLitert(worker=(sys.executable, "-c", code)).write(
        Residual().eval(), [INT8], signature(3, 32), IMAGES, tmp_path, 2
    )["int8"]
    assert isinstance(failure, ExportFailure)
    assert "stopped after 2 s" in failure.reason
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_missing_packages_name_the_extra(tmp_path: Path) -> None:
    code = f"print(\"No module named 'litert_torch'\"); raise SystemExit({MISSING})"
    failure = write(tmp_path, [INT8], worker=(sys.executable, "-c", code))["int8"]
    assert "No module named 'litert_torch'" in failure.reason
    assert 'pip install "pare[litert]"' in failure.reason


def test_what_it_does_not_offer_is_refused_before_any_work(tmp_path: Path) -> None:
    plan = INT8.model_copy(update={"scheme": "ternary"})
    with pytest.raises(PareError, match=r"cannot be made: it offers no ternary"):
        write(tmp_path / "out", [plan])
    assert not (tmp_path / "out").exists()
