"""Masks drawn by a stable Gumbel-softmax over untrained weights (Dupont et al. 2022)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.methods import Phase, attached, register, undecayed
from pipeline.methods._untrained import (
    Sampled,
    Sampling,
    frozen,
    logits,
    with_signed_constants,
)

Formulation = Literal["stable", "naive"]


class _StraightThrough(torch.autograd.Function):
    """One where ``m_hat + noise`` is not below 0; the gradient is that of its sigmoid."""

    @staticmethod
    def forward(ctx: Any, m_hat: Tensor, noise: Tensor, tau: float) -> Tensor:
        reached = m_hat + noise
        ctx.tau = tau
        ctx.save_for_backward((reached / tau).sigmoid())
        return (reached >= 0).to(m_hat.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (soft,) = ctx.saved_tensors
        return grads[0] * soft * (1 - soft) / ctx.tau, None, None


def stable(m_hat: Tensor, noise: Tensor, tau: float = 1.0) -> Tensor:
    """Return the straight-through Gumbel-softmax over ``[m_hat; 0]``, its first half.

    Of two logits only their difference counts, and the difference of two Gumbel variables
    is a logistic one: the softmax is ``sigma((m_hat + noise) / tau)``, one sigmoid and one
    random number a weight instead of a softmax over two.

    Args:
        m_hat: logits, any shape.
        noise: logistic, same shape.
        tau: temperature.
    """
    mask: Tensor = _StraightThrough.apply(m_hat, noise, tau)
    return mask


def naive(m_hat: Tensor, tau: float = 1.0) -> Tensor:
    """Return the same mask from ``[log sigma(m_hat); log(1 - sigma(m_hat))]``, literally.

    In float32 one of the two probabilities rounds to 0 from m_hat = 17 on and is too small
    to divide by below -88: the gradient is not a number there.
    """
    probability = m_hat.sigmoid()
    both = torch.stack([probability.log(), (1 - probability).log()])
    return F.gumbel_softmax(both, tau, hard=True, dim=0)[0]


class Topology(Sampled):
    """Parametrization ``s w m`` with m a straight-through Gumbel-softmax in training."""

    def __init__(
        self, weight: Tensor, tau: float, formulation: Formulation, *, rescale: bool
    ) -> None:
        super().__init__(weight)
        self.tau, self.formulation = tau, formulation
        self.scale = nn.Parameter(torch.ones(())) if rescale else None

    def draw(self) -> Tensor:
        """Draw a mask."""
        if self.formulation == "naive":
            return naive(self.m_hat, self.tau)
        return stable(self.m_hat, torch.rand_like(self.m_hat).logit_(), self.tau)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights, same shape, times the layer's scale if it has one."""
        masked = weight * self.mask()
        return masked if self.scale is None else self.scale * masked


class Aslp(Sampling):
    """Learn a topology by sampling it from a stable Gumbel-softmax; never train a weight.

    In training the mask of each layer is a straight-through Gumbel-softmax over
    ``[m_hat; 0]``, so that a weight is kept with probability sigma(m_hat). In the end the
    topology is frozen once at the weights more likely kept than not, at most the budget's
    number: the method finds its own rate, and with ``budget.weights = 1`` keeps just that.

    Source:
        Dupont, Alaoui, Sahbi & Lebois, Extracting Effective Subnetworks with Gumbel-Softmax,
        ICIP 2022, arXiv:2202.12986, its poster and public code. As there: tau 1, logits
        from 0 at a rate of 50 without decay (500 times a ``train.lr`` of 0.1), Kaiming
        normal weights, PyTorch's biases, the learnt scale at a rate of 1e-3. Deviations:
        the softmax over two is computed as the sigmoid it equals; evaluation never draws
        (the code selects among random topologies); a logit that is still exactly 0 is not
        kept (the code keeps it); batch norms, which the networks of the paper have not,
        are not trained; the common ones (``pipeline.methods``), less the guard: the paper's
        rate is constant, its momentum not Nesterov's.
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            formulation: ``stable``, or the ``naive`` one with both log-probabilities, kept
                for comparison: it is slower and breaks once a logit is large.
            rescale: one learnt factor per layer, from 1 (the paper's Smart Rescale).
            signed_constant: replace the weights of a layer by their sign times their
                standard deviation.
            redraw: draw new weights and biases as the paper does, whatever the model
                came with; otherwise mask what it came with.
            tau: temperature of the softmax.
            mask_lr_factor: rate of the logits over ``train.lr``.
            scale_lr_factor: rate of the factors of ``rescale`` over ``train.lr``.
        """

        formulation: Formulation = "stable"
        rescale: bool = True
        signed_constant: bool = False
        redraw: bool = True
        tau: float = Field(default=1.0, gt=0)
        mask_lr_factor: float = Field(default=500.0, gt=0)
        scale_lr_factor: float = Field(default=0.01, gt=0)

    params: Params

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Draw and freeze the weights, and give each its logit."""
        del phase
        own = frozen(model, _kaiming if self.params.redraw else None)
        if self.params.signed_constant:
            own = with_signed_constants(own)
        register(own, self._topology)
        return own

    def _topology(self, weight: Tensor) -> Topology:
        options = self.params
        return Topology(weight, options.tau, options.formulation, rescale=options.rescale)

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train the logits, fast, and the scales, slowly; neither decays."""
        masks = [mask for _, mask, _ in attached(model, Topology)]
        scales = [mask.scale for mask in masks if mask.scale is not None]
        own = undecayed([mask.m_hat for mask in masks], lr * self.params.mask_lr_factor)
        slow = undecayed(scales, lr * self.params.scale_lr_factor)
        return [own, slow] if scales else [own]

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Refuse to go on with logits that are no numbers.

        Raises:
            PareError: names the layer and what to change.
        """
        for name, m_hat in logits(model):
            if not bool(m_hat.isfinite().all()):
                raise PareError(
                    f"method 'aslp': after {progress:.0%} of the training the logits of "
                    f"{name!r} are no numbers any more. "
                    + (
                        "The naive formulation breaks once a logit reaches 17; set "
                        "method.formulation = 'stable'."
                        if self.params.formulation == "naive"
                        else "Lower train.lr or method.mask_lr_factor."
                    )
                )


def _kaiming(weight: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu")
