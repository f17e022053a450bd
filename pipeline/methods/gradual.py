"""Magnitude pruning on a cubic ramp during training (Zhu & Gupta 2017)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator
from torch import Tensor, nn

from pipeline.core.budget import UNITS, Unit
from pipeline.core.record import Record
from pipeline.graph.ranking import lamp
from pipeline.methods import Method, Phase, cubic_ramp, hold, magnitudes, with_masks


class Gradual(Method):
    """Prune a little after each epoch, less and less, while the rest goes on training.

    The kept fraction falls from all to the budget's as ``f + (1 - f) (1 - p)^3``, p being
    the progress from ``begin`` to ``end``; afterwards the masks stay as they are. A weight
    once removed stays at zero.

    Source:
        Zhu & Gupta, To Prune, or Not to Prune, 2017, arXiv:1710.01878, equation 1.
        Deviations: one global threshold instead of one sparsity per layer; masks change
        after epochs instead of every hundred steps; the common ones (``pipeline.methods``).
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            begin: fraction of the training after which pruning starts.
            end: fraction of the training at which the budget is reached.
            scale_free: rank weights over all layers by LAMP scores, as ``reparam`` does,
                instead of magnitudes.
        """

        begin: float = Field(default=0.0, ge=0, lt=1)
        end: float = Field(default=0.75, gt=0, le=1)
        scale_free: bool = False

        @model_validator(mode="after")
        def _begins_before_it_ends(self) -> Gradual.Params:
            if self.begin >= self.end:
                raise ValueError(f"begin = {self.begin} is not before end = {self.end}")
            return self

    params: Params
    prunes: ClassVar[bool] = True
    units: ClassVar[frozenset[Unit]] = UNITS

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Hold masks that keep everything at first."""
        own = super().attach(model, phase)
        return with_masks(own, super().masks(own))

    def kept_fraction(self, progress: float, final: float) -> float:
        """Return the part of the network kept at this point of the training.

        >>> from pipeline.core.budget import Budget
        >>> method = Gradual(Gradual.Params(begin=0, end=1), Budget(weights=0.2))
        >>> [round(method.kept_fraction(p, 0.2), 3) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.3, 0.2]
        """
        span = self.params.end - self.params.begin
        return cubic_ramp((progress - self.params.begin) / span, final)

    def prunes_now(self, model: nn.Module, progress: float, *, epoch_ends: bool) -> bool:
        """Tell that weights leave after each epoch."""
        del model, progress
        return epoch_ends

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Remove the smallest of the weights that are left."""
        part = self.kept_fraction(progress, self.part(model))
        hold(model, self.select(model, self._scores(model), part))

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest score that the budget pays for."""
        return self.select(model, self._scores(model))

    def _scores(self, model: nn.Module) -> dict[str, Tensor]:
        sizes = magnitudes(model)
        return lamp(sizes) if self.params.scale_free else sizes
