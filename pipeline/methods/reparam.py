"""Weight reparametrization under a budget (Dupont, Sahbi & Michel 2021)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.core.budget import Budget
from pipeline.core.record import Record
from pipeline.graph.counting import PRUNABLE, prunable_count
from pipeline.methods import Method, Phase, attached


def h(x: Tensor, t: Tensor, n: int = 4) -> Tensor:
    """Return the soft gate of each weight: 0 in the pit around zero, 1 far from it.

    The literal form ``C1 (exp(-1 / ((t x)^n + 1)) - C2)`` cancels to exactly zero in float32
    for |t x| <= 0.01, so that all weights in the pit would count and rank alike. With
    ``u = (t x)^n`` it equals ``expm1(u / (1 + u)) / (e - 1)``, which keeps them apart.

    Args:
        x: latent weights, any shape.
        t: inverse width of the pit, a scalar; half-way is at |x| = 1.13 / t for n = 4.
        n: even; how sharply the gate rises.

    Source:
        Dupont, Sahbi & Michel, Weight Reparametrization for Budget-Aware Network Pruning,
        ICIP 2021, arXiv:2107.03909; stable form derived here.

    >>> round(float(h(torch.tensor(0.0113), torch.tensor(100.0))), 2)
    0.5
    """
    # Squares are cheaper than a general power. Past 1e6 the gate is one to float32
    # precision; the clamp keeps u / (1 + u) finite.
    u = (t * x).square().pow(n // 2).clamp(max=1e6)
    return torch.expm1(u / (1 + u)) / (math.e - 1)


class Pit(nn.Module):
    """Parametrization ``w h_t(w)``: soft-prunes the weights that fall into the pit."""

    def __init__(self, t: nn.Parameter, n: int) -> None:
        super().__init__()
        self.t = t
        self.n = n

    def forward(self, weight: Tensor) -> Tensor:
        """Map latent to apparent weights, same shape."""
        return weight * h(weight, self.t, self.n)


class Reparam(Method):
    """Train apparent weights ``w h_t(w)`` under a budget; prune once, without fine-tuning.

    The loss is ``task + mixing ((C - C_target) / C_initial)^2`` with ``C = sum h``. In the
    end exactly the budget's number of weights is kept: those of largest apparent magnitude
    over all layers.

    Source:
        Dupont, Sahbi & Michel, ICIP 2021, arXiv:2107.03909. Not stated there and chosen
        here: the mixing coefficient and its ramp, the scope of t, the rate at which t is
        learnt, and the global selection rule.
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            mixing: coefficient lambda of the budget loss.
            ramp: fraction of the training over which the coefficient grows linearly to its
                value; 0 applies it from the first step.
            t: initial inverse width of the pit.
            scope: one t for the network, or one per layer.
            learn_t: train t by the optimizer (``t_lr_factor`` of its rate, no decay).
            n: even exponent of the pit.
        """

        mixing: float = Field(default=1.0, ge=0)
        ramp: float = Field(default=0.0, ge=0, le=1)
        t: float = Field(default=100.0, gt=0)
        scope: Literal["global", "layer"] = "global"
        learn_t: bool = True
        t_lr_factor: float = Field(default=1.0, gt=0)
        n: int = Field(default=4, ge=2, multiple_of=2)

    params: Params
    prunes: ClassVar[bool] = True

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._initial_cost: float | None = None

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Register the pit on the weight of every convolution and linear layer."""
        own = super().attach(model, phase)
        shared = self._new_t()
        for module in own.modules():
            if isinstance(module, PRUNABLE):
                t = shared if self.params.scope == "global" else self._new_t()
                pit = Pit(t, self.params.n)
                parametrize.register_parametrization(module, "weight", pit)
        with torch.no_grad():
            self._initial_cost = float(_cost(own))
        return own

    def _new_t(self) -> nn.Parameter:
        return nn.Parameter(torch.tensor(self.params.t), requires_grad=self.params.learn_t)

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train t at its own rate and without weight decay, which would widen the pit."""
        widths = {id(pit.t): pit.t for _, pit, _ in attached(model, Pit)}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in widths]
        groups: list[dict[str, object]] = [{"params": rest, "lr": lr}]
        if self.params.learn_t:
            groups.append(
                {
                    "params": list(widths.values()),
                    "lr": lr * self.params.t_lr_factor,
                    "weight_decay": 0.0,
                }
            )
        return groups

    def loss(self, model: nn.Module, progress: float) -> Tensor:
        """Return the budget loss, normalised by the cost before the first step."""
        assert self._initial_cost is not None, "attach comes first"
        overspent = (_cost(model) - self.kept(model)) / self._initial_cost
        ramp = min(1.0, progress / self.params.ramp) if self.params.ramp else 1.0
        return self.params.mixing * ramp * overspent.square()

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return the sum of the gates as a fraction of all weights."""
        return float(_cost(model)) / prunable_count(model)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest apparent magnitude, exactly the budget's number."""
        return self.largest(model)


def _cost(model: nn.Module) -> Tensor:
    """Return the sum of h over all latent weights."""
    costs = [h(latent, pit.t, pit.n).sum() for _, pit, latent in attached(model, Pit)]
    return torch.stack(costs).sum()
