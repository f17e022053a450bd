"""No pruning: an ordinary training, the baseline of every comparison."""

from __future__ import annotations

from typing import ClassVar

from pipeline.methods import Method


class Dense(Method):
    """Train the network as it is and keep every weight."""

    prunes: ClassVar[bool] = False
