"""Which of several files is offered: by accuracy first, then time, then size."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.measure import Measure
from pipeline.exporters.election import Candidate, elect


def candidate(name: str, top1: float = 0.9, ms: float = 1.0, size: int = 100, **more: Any):
    return Candidate(
        **{
            "exporter": f"tflite_{name}",
            "state": "made",
            "file": "model.int8.tflite",
            "bytes": size,
            "validation_top1": top1,
            "inference": Measure(value=ms, unit="ms", basis="measured", n=30),
            **more,
        }
    )


@pytest.mark.parametrize(
    ("one", "two", "winner", "why"),
    [
        ({"top1": 0.9}, {"top1": 0.894}, 0, "0.6 points more accurate on the validation"),
        ({"top1": 0.894}, {"top1": 0.9, "size": 999}, 1, "0.6 points more accurate"),
        ({"ms": 1.0, "size": 999}, {"ms": 1.2}, 0, "a takes 1 ms, b 1.2"),
        ({"ms": 1.05, "size": 99}, {"ms": 1.0}, 0, "a is as good as b and 1 bytes smaller"),
        ({"size": 100}, {"size": 99}, 1, "b is as good as a and 1 bytes smaller"),
        ({}, {}, 0, "a is as good as b, which comes later"),
        ({"ms": 5.0, "size": 99}, {"inference": None}, 0, "1 bytes smaller"),
    ],
)
def test_the_figure_that_decides_is_said(one, two, winner, why) -> None:
    found = elect([candidate("a", **one), candidate("b", **two)])
    assert found.winner == winner
    assert why in found.why


@pytest.mark.parametrize("state", ["wrong", "refused"])
def test_a_file_that_is_not_right_is_never_offered(state) -> None:
    better = candidate("a", top1=1.0, ms=0.1, size=1, state=state, why="it lies")
    found = elect([better, candidate("b", top1=0.1, ms=9, size=999)])
    assert found.winner == 1
    assert found.why == f"only b made it; a is {state}: it lies"
    assert elect([better]).winner is None
    assert elect([better]).why == "a: it lies"


def test_nothing_to_choose_from_is_no_winner() -> None:
    assert elect([]).winner is None


def test_weights_trained_with_rounding_must_earn_it() -> None:
    plain, trained = candidate("a", top1=0.90), candidate("a", top1=0.96, weights="qat")
    found = elect([plain, trained])
    assert found.winner == 1
    assert "a after training with rounding is 6.0 points more accurate" in found.why
    assert elect([plain, candidate("a", top1=0.90, weights="qat")]).winner == 0
