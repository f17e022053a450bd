"""Plans: what each scheme promises about a file."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import PareError
from pipeline.core.plan import SchemePlan
from pipeline.quantizers import describe
from pipeline.quantizers.dynamic_range import DynamicRange
from pipeline.quantizers.float16 import Float16
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int8 import Int8


@pytest.mark.parametrize(
    ("scheme", "file_format", "expected"),
    [
        (Float32, "onnx", ("fp32", "float32", "float32", None, "float32")),
        (Float32, "tflite", ("fp32", "float32", "float32", None, "float32")),
        (Float16, "tflite", ("fp16", "float16", "float32", None, "float32")),
        (DynamicRange, "tflite", ("dynamic", "int8", "float32", "per-channel", "float32")),
        (Int8, "onnx", ("int8", "int8", "int8", "per-channel", "float32")),
        (Int8, "tflite", ("int8", "int8", "int8", "per-channel", "int8")),
    ],
)
def test_what_is_stored(scheme, file_format, expected) -> None:
    plan = scheme.plan(file_format)
    got = (plan.dtype, plan.weights, plan.activations, plan.granularity, plan.io_dtype)
    assert got == expected
    assert plan.file_name == f"model.{plan.scheme}.{file_format}"
    assert SchemePlan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("scheme", [Int8, DynamicRange])
def test_the_target_chooses_the_granularity(scheme) -> None:
    assert scheme.plan("tflite", "per-tensor").granularity == "per-tensor"
    assert scheme.plan("tflite", "per-channel").granularity == "per-channel"


def test_a_granularity_says_nothing_to_floats() -> None:
    assert Float32.plan("onnx", "per-tensor").granularity is None
    assert Float16.plan("tflite", "per-tensor").granularity is None


@pytest.mark.parametrize(
    ("scheme", "file_format", "message"),
    [
        (Float16, "onnx", "scheme 'float16' cannot be written as 'onnx'. Use tflite"),
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
