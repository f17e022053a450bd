"""The gate of the weight reparametrization, and how it sits on a weight."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_E1 = math.e - 1
#: Beyond it the gate is one to float32 precision; the bound keeps u / (1 + u) finite.
_LARGEST = 1e6
#: An inverse width at which the pit is too narrow for any weight but zero.
OPEN = 1e12


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
    # Squares are cheaper than a general power.
    u = (t * x).square().pow(n // 2).clamp(max=_LARGEST)
    return torch.expm1(u / (1 + u)) / _E1


def half_way(n: int) -> float:
    """Return t |x| where the gate is one half.

    >>> round(half_way(4), 3)
    1.13
    """
    r = math.log1p(_E1 / 2)
    return float((r / (1 - r)) ** (1 / n))


class Pit(nn.Module):
    """Parametrization ``w h_t(w)`` with a trained t: soft-prunes what falls into the pit."""

    def __init__(self, t: nn.Parameter, n: int) -> None:
        super().__init__()
        self.t = t
        self.n = n

    def forward(self, weight: Tensor) -> Tensor:
        """Map latent to apparent weights, same shape."""
        return weight * h(weight, self.t, self.n)


class _Gated(torch.autograd.Function):
    """``w h_t(w)`` for a t that is given: one pass forward, one product backward."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, t: Tensor, n: int) -> Tensor:
        u = (weight * t).square_()
        if n != 2:
            u.pow_(n // 2)
        r = u.clamp_(max=_LARGEST).div(1 + u)
        # Not expm1, which takes ten times as long: what it would keep of a gate below 1e-7
        # is nothing to the apparent weight, and no ranking is made of these.
        gate = torch.exp(r).sub_(1).div_(_E1)
        # d(w h)/dw = h + n r (1 - r) (h + 1 / (e - 1))
        slope = (1 - r).mul_(r).mul_(n).mul_(gate + 1 / _E1).add_(gate)
        ctx.save_for_backward(slope)
        return weight * gate

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


class Gate(nn.Module):
    """Parametrization that is open, then a pit of a given width, then a mask.

    Attributes:
        t: inverse width of the pit.
        mask: what is kept once the gate is hard.
        hard: whether it is.
    """

    t: Tensor
    mask: Tensor

    def __init__(self, weight: Tensor, n: int) -> None:
        super().__init__()
        self.n = n
        self.hard = False
        self.register_buffer("t", torch.tensor(OPEN))
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))

    def forward(self, weight: Tensor) -> Tensor:
        """Map latent to apparent weights, same shape."""
        if self.hard:
            return weight * self.mask
        apparent: Tensor = _Gated.apply(weight, self.t, self.n)
        return apparent

    def gates(self, weight: Tensor) -> Tensor:
        """Return the gate of each weight, in [0, 1]."""
        return self.mask.to(weight.dtype) if self.hard else h(weight, self.t, self.n)

    def get_extra_state(self) -> Tensor:
        """Return whether the gate is hard, for the state dict."""
        return torch.tensor(self.hard)

    def set_extra_state(self, state: Tensor) -> None:
        """Take it back."""
        self.hard = bool(state)
