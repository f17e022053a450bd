"""The reparametrization as published: a width that is trained under a budget loss."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.core.budget import UNITS, Budget, Unit
from pipeline.core.record import Record
from pipeline.methods import Method, Phase, attached, beside, register, undecayed
from pipeline.methods._gates import Pit, h
from pipeline.methods._scheduled import Options


class Paper(Method):
    """The loss is ``task + mixing ((C - C_target) / C_initial)^2`` with ``C = sum h``.

    In the end the budget's weights are kept: those of largest apparent magnitude over all
    layers. With a budget in another unit, each h counts with its weight's price.
    """

    params: Options
    prunes: ClassVar[bool] = True
    units: ClassVar[frozenset[Unit]] = UNITS

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._initial_cost: float | None = None

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Register the pit on the weight of every convolution and linear layer."""
        own = super().attach(model, phase)
        shared = self._new_t()

        def pit(weight: Tensor) -> Pit:
            del weight
            return Pit(
                shared if self.params.scope == "global" else self._new_t(), self.params.n
            )

        register(own, pit)
        with torch.no_grad():
            self._initial_cost = float(self._cost(own))
        return own

    def _new_t(self) -> nn.Parameter:
        return nn.Parameter(torch.tensor(self.params.t), requires_grad=self.params.learn_t)

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train t at its own rate and without weight decay, which would widen the pit."""
        # A shared t comes once.
        widths = list({id(pit.t): pit.t for _, pit, _ in attached(model, Pit)}.values())
        rest = beside(model, widths, lr)
        if not self.params.learn_t:
            return [rest]
        return [rest, undecayed(widths, lr * self.params.t_lr_factor)]

    def loss(self, model: nn.Module, progress: float) -> Tensor:
        """Return the budget loss, normalised by the cost before the first step."""
        assert self._initial_cost is not None, "attach comes first"
        overspent = (self._cost(model) - self._limit(model)) / self._initial_cost
        ramp = min(1.0, progress / self.params.ramp) if self.params.ramp else 1.0
        return self.params.mixing * ramp * overspent.square()

    def _limit(self, model: nn.Module) -> float:
        weights = self.budget.unit == "weights"
        return float(self.kept(model)) if weights else self.prices(model).limit

    def _cost(self, model: nn.Module) -> Tensor:
        """Return the sum of h over all latent weights, each times its price."""
        gates = {name: h(w, pit.t, pit.n) for name, pit, w in attached(model, Pit)}
        if self.budget.unit == "weights":
            return torch.stack([gate.sum() for gate in gates.values()]).sum()
        return self.prices(model).soft_cost(gates)

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return what the gates spend as a fraction of the whole."""
        if self.budget.unit != "weights":
            return float(self._cost(model)) / self.prices(model).whole
        count = sum(latent.numel() for _, _, latent in attached(model, Pit))
        return float(self._cost(model)) / count

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest apparent magnitude that the budget pays for."""
        return self.largest(model)
