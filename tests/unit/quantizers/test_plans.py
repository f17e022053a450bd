"""Plans: what each scheme promises about a file."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import PareError
from pipeline.core.plan import Demand, SchemePlan
from pipeline.quantizers import describe
from pipeline.quantizers.dynamic_range import DynamicRange
from pipeline.quantizers.float16 import Float16
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int4 import Int4
from pipeline.quantizers.int8 import Int8
from pipeline.quantizers.int16x8 import Int16X8
from pipeline.quantizers.weight_only import WeightOnly


@pytest.mark.parametrize(
    ("scheme", "file_format", "expected"),
    [
        (Float32, "onnx", ("fp32", "float32", "float32", None, "float32")),
        (Float32, "tflite", ("fp32", "float32", "float32", None, "float32")),
        (Float16, "onnx", ("fp16", "float16", "float16", None, "float32")),
        (Float16, "tflite", ("fp16", "float16", "float32", None, "float32")),
        (DynamicRange, "tflite", ("dynamic", "int8", "float32", "per-channel", "float32")),
        (Int8, "onnx", ("int8", "int8", "int8", "per-channel", "float32")),
        (Int8, "tflite", ("int8", "int8", "int8", "per-channel", "int8")),
        (Int16X8, "tflite", ("int16x8", "int8", "int16", "per-channel", "int16")),
        (WeightOnly, "tflite", ("w8", "int8", "float32", "per-channel", "float32")),
        (Int4, "tflite", ("int4", "int4", "int8", "per-channel", "int8")),
    ],
)
def test_what_is_stored(scheme, file_format, expected) -> None:
    plan = scheme.plan(file_format)
    got = (plan.dtype, plan.weights, plan.activations, plan.granularity, plan.input_dtype)
    assert got == expected
    assert plan.file_name == f"model.{plan.scheme}.{file_format}"
    assert SchemePlan.model_validate_json(plan.model_dump_json()) == plan


PER_TENSOR, PER_CHANNEL = Demand(granularity="per-tensor"), Demand(granularity="per-channel")


@pytest.mark.parametrize("scheme", [Int8, DynamicRange, WeightOnly, Int16X8])
def test_the_target_chooses_the_granularity(scheme) -> None:
    assert scheme.plan("tflite", PER_TENSOR).granularity == "per-tensor"
    assert scheme.plan("tflite", PER_CHANNEL).granularity == "per-channel"


def test_a_granularity_says_nothing_to_floats() -> None:
    assert Float32.plan("onnx", PER_TENSOR).granularity is None
    assert Float16.plan("tflite", PER_TENSOR).granularity is None


@pytest.mark.parametrize(
    ("file_format", "demand", "name", "border"),
    [
        ("tflite", Demand(), "model.int8.tflite", "int8"),
        ("tflite", Demand(io_dtype="uint8"), "model.int8-uint8-io.tflite", "uint8"),
        ("tflite", Demand(io_dtype="float32"), "model.int8-float32-io.tflite", "float32"),
        ("tflite", PER_TENSOR, "model.int8-per-tensor.tflite", "int8"),
        ("onnx", Demand(activations="int8"), "model.int8.onnx", "float32"),
        ("onnx", Demand(activations="uint8"), "model.int8-u8s8.onnx", "float32"),
    ],
)
def test_files_that_differ_have_other_names(file_format, demand, name, border) -> None:
    plan = Int8.plan(file_format, demand)
    assert (plan.file_name, plan.input_dtype, plan.output_dtype) == (name, border, border)


def test_pixels_are_bytes_where_a_file_can_take_them() -> None:
    assert Int8.plan("tflite").for_pixels().input_dtype == "uint8"
    assert Float32.plan("onnx").for_pixels().input_dtype == "uint8"
    assert Float32.plan("tflite").for_pixels().input_dtype == "float32"


@pytest.mark.parametrize(
    ("scheme", "file_format", "message"),
    [
        (Int4, "onnx", "scheme 'int4' cannot be written as 'onnx'. Use tflite"),
        (
            DynamicRange,
            "onnx",
            "scheme 'dynamic_range' cannot be written as 'onnx'. Use tflite",
        ),
        (Int8, "coreml", "scheme 'int8' cannot be written as 'coreml'. Use onnx or tflite"),
        (Float32, "coreml", "scheme 'float32' cannot be written as 'coreml'"),
    ],
)
def test_a_format_that_cannot_carry_it_is_refused(scheme, file_format, message) -> None:
    with pytest.raises(PareError, match=message):
        scheme.plan(file_format)


class TestCalibration:
    images = np.linspace(-1, 2, 4 * 3, dtype=np.float32).reshape(4, 1, 1, 3)
    labels = np.array([0, 2, 2, 0])

    def test_says_what_was_fed(self) -> None:
        record = describe(self.images, self.labels, ["a", "b", "c"], seed=7)
        assert (record.count, record.seed, record.split) == (4, 7, "train")
        assert record.class_histogram == {"a": 2, "b": 0, "c": 2}
        assert (record.minimum, record.maximum) == (-1.0, 2.0)

    def test_the_hash_sees_one_value_and_the_shape(self) -> None:
        def sha(images: np.ndarray) -> str:
            return describe(images, self.labels, ["a", "b", "c"], seed=7).sha256

        changed = self.images.copy()
        changed[3, 0, 0, 2] = np.nextafter(np.float32(2), np.float32(3))
        assert sha(self.images) == sha(self.images.copy())
        assert sha(changed) != sha(self.images)
        assert sha(self.images.reshape(4, 1, 3, 1)) != sha(self.images)

    def test_no_images(self) -> None:
        with pytest.raises(PareError, match=r"there are no images\. Raise quantize"):
            describe(self.images[:0], self.labels[:0], ["a"], seed=0)

    def test_not_finite(self) -> None:
        with pytest.raises(PareError, match=r"not finite\. Check mean and std"):
            describe(self.images * np.nan, self.labels, ["a", "b", "c"], seed=0)
