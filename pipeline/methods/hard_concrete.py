"""L0 regularization: weights trained behind random gates that close exactly (Louizos 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.record import Record
from pipeline.graph.counting import prunable_count
from pipeline.methods import Method, Phase, attached, beside, register, undecayed
from pipeline.methods._untrained import (
    random_state,
    set_random_state,
)

#: The paper's: ends of the stretched interval, and temperature.
GAMMA, ZETA, BETA = -0.1, 1.1, 2 / 3


def drawn(log_alpha: Tensor, noise: Tensor) -> Tensor:
    """Return hard-concrete gates in [0, 1], some of them exactly 0 or 1.

    Args:
        log_alpha: their location, any shape.
        noise: logistic, same shape.
    """
    soft = ((noise + log_alpha) / BETA).sigmoid()
    return (soft * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def settled(log_alpha: Tensor) -> Tensor:
    """Return the gates without noise, as the trained network has them.

    >>> settled(torch.tensor([-3.0, 0.0, 3.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return (log_alpha.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability that a gate is not exactly 0: its expected L0 norm."""
    return (log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()


class Gate(nn.Module):
    """Parametrization ``w z``: z is drawn in training and settled otherwise."""

    def __init__(self, log_alpha: Tensor) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(log_alpha)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the gated weights, same shape."""
        if not self.training:
            return weight * settled(self.log_alpha)
        return weight * drawn(self.log_alpha, torch.rand_like(self.log_alpha).logit_())


class HardConcrete(Method):
    """Train weights and hard-concrete gates together; keep the largest gated weights.

    The penalty is ``strength n |c - b|``, c n being the expected number of open gates among
    n, and b the wanted fraction, which falls from one to the budget's. Its pull on a gate is
    that of the paper's penalty until the number is reached: it fades neither with the size
    of the network nor near the goal, as a squared distance does. In the end exactly the
    budget's number of weights is kept, those of largest magnitude behind settled gates.

    Source:
        Louizos, Welling & Kingma, Learning Sparse Neural Networks through L0
        Regularization, ICLR 2018, arXiv:1712.01312. Deviations: the penalty is drawn to the
        budget (the paper's ``strength c n`` is ``toward = "zero"``; its lambda / N is the
        strength); every gate is of one weight; gates have a rate of their own, as plain SGD
        hardly moves them (the paper's optimizer is Adam); exactly the budget's number is
        kept, closed gates or not; the common ones (``pipeline.methods``).
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            strength: of the penalty, per weight.
            toward: ``budget``, or ``zero`` for the paper's penalty, which closes gates
                for as long as it costs less than it saves.
            ramp: fraction of the training over which the wanted number of open gates falls
                linearly from all to the budget's; 0 asks for it from the first step, which
                may close whole layers before their weights have learnt anything.
            dropped: rate at which gates are closed at the start, as sigma(-log_alpha).
            gate_lr_factor: rate of the gates over ``train.lr``, without decay; with adam,
                which moves all alike, choose one near 1.
        """

        strength: float = Field(default=1e-3, ge=0)
        toward: Literal["budget", "zero"] = "budget"
        ramp: float = Field(default=0.5, ge=0, le=1)
        dropped: float = Field(default=0.1, gt=0, lt=1)
        gate_lr_factor: float = Field(default=1000.0, gt=0)

    params: Params
    prunes: ClassVar[bool] = True

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Put a gate before every weight."""
        own = super().attach(model, phase)
        register(own, self._gate)
        return own

    def _gate(self, weight: Tensor) -> Gate:
        """Return a gate that starts near the asked-for rate, as the paper draws it."""
        start = math.log((1 - self.params.dropped) / self.params.dropped)
        return Gate(start + 0.01 * torch.randn_like(weight.detach()))

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train the gates at a rate of their own, without decay."""
        gates = [gate.log_alpha for _, gate, _ in attached(model, Gate)]
        return [beside(model, gates, lr), undecayed(gates, lr * self.params.gate_lr_factor)]

    def wanted(self, progress: float) -> float:
        """Return the fraction of gates that should be open at this point of the training.

        >>> from pipeline.core.budget import Budget
        >>> method = HardConcrete(HardConcrete.Params(ramp=0.5), Budget(weights=0.1))
        >>> [round(method.wanted(p), 2) for p in (0.0, 0.25, 0.5, 1.0)]
        [1.0, 0.55, 0.1, 0.1]
        """
        done = min(1.0, progress / self.params.ramp) if self.params.ramp else 1.0
        return 1 - (1 - self.budget.weights) * done

    def loss(self, model: nn.Module, progress: float) -> Tensor:
        """Return the penalty on the expected number of open gates."""
        count, expected = prunable_count(model), _expected(model)
        if self.params.toward == "zero":
            return self.params.strength * expected
        distance = expected / count - self.wanted(progress)
        return self.params.strength * count * distance.abs()

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return the expected number of open gates as a fraction of all weights."""
        return float(_expected(model)) / prunable_count(model)

    @torch.no_grad()
    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the largest weights behind settled gates, exactly the budget's number."""
        scores = {
            name: (weight * settled(gate.log_alpha)).abs()
            for name, gate, weight in attached(model, Gate)
        }
        return self.select(model, scores)

    def state(self) -> dict[str, Tensor]:
        """Return where the random numbers stand, of which the gates are drawn."""
        return random_state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Draw on from there."""
        set_random_state(state)


def _expected(model: nn.Module) -> Tensor:
    """Return the expected number of open gates."""
    sums = [open_probability(gate.log_alpha).sum() for _, gate, _ in attached(model, Gate)]
    return torch.stack(sums).sum()
