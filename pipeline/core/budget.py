"""What the user may spend."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from pipeline.core.errors import PareError
from pipeline.core.record import Record

Unit = Literal["weights", "macs", "bytes", "latency_ms"]
UNITS: frozenset[Unit] = frozenset({"weights", "macs", "bytes", "latency_ms"})


def whole_part(fraction: float, total: int) -> int:
    """Return the largest whole number under a fraction of ``total``, floats forgiven.

    >>> whole_part(0.29, 100), int(0.29 * 100)
    (29, 28)
    """
    return math.floor(fraction * total * (1 + 1e-15))  # a few units in the last place


class Budget(Record):
    """The part of the network that may be kept, in one unit.

    Attributes:
        weights: kept fraction of the prunable weights (those of convolutions and linear
            layers; biases and normalisation are not counted), in (0, 1].
        macs: fraction of the multiply-accumulates for one image, in (0, 1].
        bytes: of the kept weights as float32, and of all other parameters.
        latency_ms: predicted for ``target``, float32 in the runtime it is calibrated for.
        target: device the latency is predicted for, by name or path.
        connected: never let a layer lose its last channel: one that is cut off gets its best
            weight back, and the smallest elsewhere leaves for it. Obeyed by the methods
            that rank weights.
        multiple: keep a multiple of this many channels in each layer (or all of them), as
            kernels like 4, 8 or 16. Obeyed by what removes whole channels.

    >>> Budget(weights=0.1).kept(12345)
    1234
    >>> Budget(macs=0.5).unit
    'macs'
    """

    weights: float = Field(default=1.0, gt=0, le=1)
    macs: float | None = Field(default=None, gt=0, le=1)
    bytes: int | None = Field(default=None, gt=0)
    latency_ms: float | None = Field(default=None, gt=0)
    target: str | None = None
    connected: bool = True
    multiple: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _has_one_unit(self) -> Budget:
        limited = [unit for unit in ("macs", "bytes", "latency_ms") if getattr(self, unit)]
        if len(limited) + (self.weights < 1) > 1:
            given = [*(["weights"] if self.weights < 1 else []), *limited]
            raise ValueError(
                f"it has one unit, but sets {' and '.join(given)}. Leave one out; weights = 1 "
                "lifts a limit of weights"
            )
        if (self.latency_ms is None) != (self.target is None):
            raise ValueError("latency_ms and target go together: set both or neither")
        return self

    @property
    def unit(self) -> Unit:
        """What the budget is counted in."""
        units: tuple[Unit, ...] = ("macs", "bytes", "latency_ms")
        return next((unit for unit in units if getattr(self, unit) is not None), "weights")

    @property
    def limit(self) -> float:
        """How much may be spent, a fraction for weights and macs."""
        return float(getattr(self, self.unit))

    @property
    def is_whole(self) -> bool:
        """True where everything may be kept."""
        return self.unit == "weights" and self.weights == 1

    def kept(self, total: int) -> int:
        """Return how many of ``total`` weights a budget of weights pays for.

        What the rounding of floats takes is given back: 0.29 of 100 is 29, not 28.

        Raises:
            PareError: the budget pays for no weight at all, or there is none to pay for.
        """
        if total < 1:
            raise PareError(
                "the network has no weights of convolutions or linear layers to prune. "
                "Choose another model."
            )
        count = whole_part(self.weights, total)
        if count < 1:
            raise PareError(
                f"budget.weights = {self.weights} of {total} weights keeps none. "
                f"Ask for at least {1 / total:.2g}."
            )
        return count
