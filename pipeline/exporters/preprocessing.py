"""The network with its preprocessing in front, so that a file takes raw pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.exporters import Images


class Baked(nn.Module):
    """Normalises pixels from 0 to 255 as training did, then runs the network.

    ``(pixel / 255 - mean) / std`` is one product and one sum a channel. They stay operations
    of their own: folded into a zero-padded first layer, the border would be wrong.

    Args:
        network: in evaluation mode.
        mean: one value a channel, of pixels in [0, 1].
        std: one value a channel.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        mean_, std_ = (
            torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (mean, std)
        )
        self.register_buffer("scale", (1 / (255 * std_)).float())
        self.register_buffer("shift", (-mean_ / std_).float())
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of ``[n, c, h, w]`` pixels, bytes or floats."""
        logits: Tensor = self.network(pixels.float() * self.scale + self.shift)
        return logits


def with_extremes(pixels: Images) -> Images:
    """Return calibration images among which both ends of the range occur.

    One pixel of the first image is made black and one white. Then the input's scale is 1
    and its zero point that of a byte: a file takes pixels as they are.
    """
    changed = pixels.copy()
    changed[0, :, 0, 0], changed[0, :, 0, -1] = 0, 255
    return np.asarray(changed, np.float32)
