"""Layers are found in a file by their weights, whatever it calls and turns them."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.errors import PareError
from pipeline.exporters.matching import match

RNG = np.random.default_rng(0)
ONE = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)
TWO = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)


def test_a_turned_and_slightly_rounded_weight_is_found() -> None:
    turned = ONE.transpose(0, 2, 3, 1) * np.float32(1 + 1e-6)
    assert match({"a": ONE, "b": TWO}, {"x": TWO.ravel(), "y": turned}) == {"a": "y", "b": "x"}


def test_one_changed_weight_is_another_layer() -> None:
    changed = ONE.copy()
    changed.flat[7] += 1e-3
    with pytest.raises(PareError, match=r"changed the weights of 'a' beyond recognition"):
        match({"a": ONE}, {"x": changed, "y": TWO})
