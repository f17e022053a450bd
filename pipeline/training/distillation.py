"""Learning from a trained network beside the labels."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Teacher:
    """A trained network whose softened outputs are part of the loss.

    Source:
        Hinton, Vinyals & Dean, Distilling the Knowledge in a Neural Network, 2015,
        arXiv:1503.02531, section 2: the squared temperature keeps the gradients' scale.
    """

    def __init__(
        self, model: nn.Module, weight: float, temperature: float, device: torch.device
    ) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval().to(device)
        self.weight, self.temperature = weight, temperature

    def blend(self, task: Tensor, outputs: Tensor, images: Tensor) -> Tensor:
        """Return the task loss with the teacher's part in it.

        Args:
            task: loss against the labels.
            outputs: of the student, ``[n, classes]``.
            images: that both were shown.
        """
        with torch.no_grad():
            wanted = F.log_softmax(self.model(images).float() / self.temperature, dim=1)
        given = F.log_softmax(outputs.float() / self.temperature, dim=1)
        apart = F.kl_div(given, wanted, reduction="batchmean", log_target=True)
        return (1 - self.weight) * task + self.weight * self.temperature**2 * apart
