"""The signature: what every reader of a file must know."""

from __future__ import annotations

import pytest

from pipeline.core.errors import PareError
from pipeline.core.record import parse
from pipeline.core.signature import Signature

FACTS = {
    "channels": 3,
    "height": 32,
    "width": 24,
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "classes": ["cat", "dog"],
    "producer": "pare 0.1",
    "recipe_hash": "f00d",
}


def signature(**changed: object) -> Signature:
    return parse(Signature, {**FACTS, **changed}, "signature")


def test_layouts_order_the_same_axes() -> None:
    assert signature().input_shape("NCHW") == [1, 3, 32, 24]
    assert signature(batch=None).input_shape("NHWC") == [None, 32, 24, 3]


def test_metadata_is_complete() -> None:
    assert signature(licence="MIT").metadata("NHWC") == {
        "input_name": "input",
        "input_shape": [1, 32, 24, 3],
        "input_layout": "NHWC",
        "output_name": "logits",
        "output_shape": [1, 2],
        "preprocessing": "(pixel / 255 - mean) / std",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "classes": ["cat", "dog"],
        "producer": "pare 0.1",
        "recipe_hash": "f00d",
        "licence": "MIT",
    }


def test_a_licence_that_is_not_known_has_no_key() -> None:
    assert "licence" not in signature().metadata("NHWC")


def test_json_both_ways() -> None:
    assert Signature.model_validate_json(signature().model_dump_json()) == signature()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mean": [0.1]}, "mean has 1 and std 3 values for 3 channels"),
        ({"std": [0.4, 0.0, 0.6]}, "std must be positive"),
        ({"classes": ["cat", "cat"]}, "two classes have the same name"),
        ({"classes": []}, "classes"),
        ({"batch": 0}, "batch = 0"),
        ({"chanels": 3}, "unknown key 'chanels'. Did you mean 'channels'"),
    ],
)
def test_refusals(changed, message) -> None:
    with pytest.raises(PareError, match=message):
        signature(**changed)
