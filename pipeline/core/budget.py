"""What the user may spend."""

from __future__ import annotations

import math

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.record import Record


class Budget(Record):
    """The part of the network that may be kept.

    Attributes:
        weights: kept fraction of the prunable weights (those of convolutions and linear
            layers; biases and normalisation are not counted), in (0, 1].
        connected: never let a layer lose its last channel: one that is cut off gets its best
            weight back, and the smallest elsewhere leaves for it. Obeyed by the methods
            that rank weights.

    >>> Budget(weights=0.1).kept(12345)
    1234
    """

    weights: float = Field(default=1.0, gt=0, le=1)
    connected: bool = True

    def kept(self, total: int) -> int:
        """Return how many of ``total`` weights the budget pays for.

        The tiny term keeps decimal fractions whole: a tenth of 30 is 3, not 2.

        Raises:
            PareError: the budget pays for no weight at all, or there is none to pay for.
        """
        if total < 1:
            raise PareError(
                "the network has no weights of convolutions or linear layers to prune. "
                "Choose another model."
            )
        count = math.floor(self.weights * total + 1e-9)
        if count < 1:
            raise PareError(
                f"budget.weights = {self.weights} of {total} weights keeps none. "
                f"Ask for at least {1 / total:.2g}."
            )
        return count
