"""Parity: a fault is seen, and the figures are what they claim."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import PareError
from pipeline.exporters.parity import accuracy, compare, wilson_interval
from pipeline.runtime.engines import Engine
from pipeline.runtime.tensors import TensorSpec


class Fixed(Engine):
    """An engine that has the logits already; the images count."""

    format = "onnx"
    runtime = "fixed"

    def __init__(self, logits: np.ndarray, step: float | None = None) -> None:
        self.runtime_version = "0"
        self.input = TensorSpec("input", (None, 1, 1, 1), "float32", layout="NCHW")
        self.output = TensorSpec("logits", (None, logits.shape[1]), "float32", layout="NC")
        self.output_step = step
        self._logits = logits

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._logits

    def invoke(self) -> None: ...

    def _set(self, stored: np.ndarray) -> None: ...

    def _get(self) -> np.ndarray:
        return self._logits


REFERENCE = np.float32([[10, 0, 0], [0, 5, 0], [0, 0, 5], [4, 5, 0]])
IMAGES = np.zeros((4, 1, 1, 1), np.float32)
LABELS = np.array([0, 1, 2, 0])


def judge(logits: np.ndarray, dtype: str = "fp32", step: float | None = None):
    return compare(
        Fixed(logits.astype(np.float32), step),
        [IMAGES],
        LABELS,
        REFERENCE,
        dtype=dtype,
        max_float_difference=1e-4,
        min_agreement=0.8,
    )


class Counting(Fixed):
    """An engine that gives its next logits, as many as it is fed images."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__(logits)
        self.fed: list[int] = []

    def run(self, images: np.ndarray) -> np.ndarray:
        start = sum(self.fed)
        self.fed.append(len(images))
        return self._logits[start : sum(self.fed)]


@pytest.mark.parametrize("excess", [0.00095, 0.0011])
def test_batches_are_judged_like_one(excess: float) -> None:
    logits = REFERENCE.copy()
    logits[3, 2] += excess  # in the last batch
    engine = Counting(logits)
    limits = {"dtype": "fp32", "max_float_difference": 1e-4, "min_agreement": 0.8}
    parts = (IMAGES[:3], IMAGES[3:])
    assert compare(engine, iter(parts), LABELS, REFERENCE, **limits) == judge(logits)
    assert engine.fed == [3, 1]


def test_the_same_outputs_pass() -> None:
    parity = judge(REFERENCE)
    assert parity.passed
    assert (parity.max_abs_difference, parity.agreement, parity.psnr_db) == (0, 1, None)
    assert (parity.top1.value, parity.top1.n) == (0.75, 4)


def test_float_limit_is_a_fraction_of_the_largest_logit_and_sees_just_above_it() -> None:
    inside, outside = REFERENCE.copy(), REFERENCE.copy()
    inside[1, 1] += 0.00095
    outside[1, 1] += 0.0011
    assert judge(inside).passed
    parity = judge(outside)
    assert not parity.passed
    assert parity.why == "largest difference 0.0011, limit 0.001"
    assert parity.max_abs_difference == pytest.approx(0.0011, rel=1e-3)


def test_quantized_files_are_judged_by_their_decisions() -> None:
    noisy = REFERENCE + 0.5
    assert not judge(noisy).passed
    assert judge(noisy, "int8").passed
    flipped = noisy.copy()
    flipped[3] = [5, 4, 0]
    parity = judge(flipped, "int8")
    assert not parity.passed
    assert parity.agreement == 0.75
    assert parity.why == "same class as the network on 75.00%, limit 80.00%"
    assert parity.top1.value == 1.0


def test_differences_are_counted_in_steps_of_the_output() -> None:
    parity = judge(REFERENCE + 0.5, "int8", step=0.25)
    assert (parity.output_scale, parity.max_steps) == (0.25, 2.0)
    assert judge(REFERENCE + 0.5, "int8").max_steps is None


def test_psnr_by_hand() -> None:
    # Largest logit 10, every logit 0.1 off: 20 log10(10 / 0.1).
    assert judge(REFERENCE + 0.1, "int8").psnr_db == pytest.approx(40, abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_outputs_that_are_not_finite_never_pass(bad, dtype) -> None:
    logits = REFERENCE.copy()
    logits[0, 0] = bad
    parity = judge(logits, dtype)
    assert not parity.passed
    assert parity.why == "an output is not finite"
    assert parity.max_abs_difference is None


def test_wilson_interval_against_published_values() -> None:
    # Newcombe, Stat. Med. 17, 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)


def test_accuracy_carries_n_and_interval() -> None:
    measure = accuracy(29, 29)
    assert (measure.value, measure.n, measure.basis) == (1.0, 29, "measured")
    assert measure.spread == wilson_interval(29, 29)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    limits = {"dtype": "fp32", "max_float_difference": 1e-4, "min_agreement": 0.9}
    with pytest.raises(PareError, match="4 images, 3 labels and 4 reference rows"):
        compare(Fixed(REFERENCE), [IMAGES], LABELS[:3], REFERENCE, **limits)
    with pytest.raises(PareError, match="0 images"):
        compare(Fixed(REFERENCE), [], LABELS[:0], REFERENCE[:0], **limits)
    with pytest.raises(PareError, match="They are not the same network"):
        compare(Fixed(REFERENCE[:, :2]), [IMAGES], LABELS, REFERENCE, **limits)
