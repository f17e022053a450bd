"""The fewest layers in float with which a limit holds, found by making files."""

from __future__ import annotations

import pytest

from pipeline.core.plan import Demand, Kept
from pipeline.exporters.accuracy_control import control, mixed
from pipeline.quantizers.int8 import Int8

RANKING = [Kept(layer=f"layer{i}", why=f"{20 + i} dB") for i in range(20)]


class Files:
    """Lose ``lost[k]`` points with k layers in float; the last figure holds for more."""

    def __init__(self, *lost: float | None) -> None:
        self.lost, self.made = lost, []

    def __call__(self, kept: tuple[Kept, ...]) -> float | None:
        assert list(kept) == RANKING[: len(kept)]
        self.made.append(len(kept))
        return self.lost[min(len(kept), len(self.lost) - 1)]


def test_a_file_within_the_limit_is_left_alone() -> None:
    files = Files(0.8)
    found = control("model.int8.onnx", RANKING, 1.0, files)
    assert found.kept is None
    assert files.made == [0]
    assert found.why == "0.80 points lost on validation, within the limit of 1"


@pytest.mark.parametrize("needed", [1, 2, 3, 5, 7, 8, 13, 20])
def test_no_more_layers_than_needed_stay_in_float(needed: int) -> None:
    files = Files(*[3.0] * needed, 0.5)
    found = control("model.int8.onnx", RANKING, 1.0, files)
    assert found.kept == tuple(RANKING[:needed])
    assert len(files.made) == len(set(files.made)) <= 11
    assert f"with {needed} of 20 in float: 0.50 points" in found.why


def test_a_limit_that_cannot_hold_is_said() -> None:
    found = control("model.int8.onnx", RANKING, 1.0, Files(3.0))
    assert found.kept is None
    assert found.why == "even with 20 layers in float the limit of 1 points does not hold"
    assert [one.in_float for one in found.tries][-1] == 20


def test_a_file_that_cannot_be_made_does_not_hold() -> None:
    found = control("model.int8.onnx", RANKING, 1.0, Files(3.0, None, None, 0.1))
    assert found.kept == tuple(RANKING[:3])
    assert control("model.int8.onnx", [], 1.0, Files(3.0)).kept is None


def test_a_mixed_file_is_float_at_its_border_and_named_so() -> None:
    plan = mixed(Int8.plan("tflite", Demand(granularity="per-tensor")), (RANKING[0],))
    assert plan.file_name == "model.int8-per-tensor-mixed.tflite"
    assert (plan.input_dtype, plan.output_dtype) == ("float32", "float32")
    pixels = mixed(Int8.plan("onnx").for_pixels(), (RANKING[0],))
    assert (pixels.input_dtype, pixels.output_dtype) == ("uint8", "float32")
