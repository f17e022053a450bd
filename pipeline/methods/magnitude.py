"""Magnitude pruning after training, with or without fine-tuning (Han et al. 2015)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from pipeline.core.record import Record
from pipeline.methods import Method, Phase, with_masks


class Magnitude(Method):
    """Train, keep the largest weights of all layers together, then train what is left.

    Source:
        Han, Pool, Tran & Dally, Learning both Weights and Connections, NeurIPS 2015.
        Deviation: one global threshold instead of one per layer, in one shot.
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            finetune_epochs: epochs after the pruning, on top of ``train.epochs``; 0 for none.
            finetune_lr_factor: of the recipe's learning rate in that phase.
        """

        finetune_epochs: int = Field(default=0, ge=0)
        finetune_lr_factor: float = Field(default=0.2, gt=0)

    params: Params
    prunes: ClassVar[bool] = True

    def phases(self, epochs: int) -> list[Phase]:
        """Train densely, then fine-tune if asked to."""
        phases = super().phases(epochs)
        if self.params.finetune_epochs:
            phases.append(
                Phase(
                    name="finetune",
                    epochs=self.params.finetune_epochs,
                    lr_factor=self.params.finetune_lr_factor,
                )
            )
        return phases

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Hold the masks in the fine-tuning phase."""
        if phase.name == "finetune":
            return with_masks(model, self.masks(model))
        return super().attach(model, phase)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest magnitude, exactly as many as the budget pays for."""
        return self.largest(model)
