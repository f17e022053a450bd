"""Masks drawn by learnt coins over weights that are never trained (Zhou et al. 2019)."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from pipeline.core.record import Record
from pipeline.methods import Phase, plain, register, undecayed
from pipeline.methods._untrained import (
    Sampled,
    Sampling,
    frozen,
    logits,
    with_signed_constants,
)


class _Bernoulli(torch.autograd.Function):
    """A coin for each logit; the gradient is that of its probability."""

    @staticmethod
    def forward(ctx: Any, m_hat: Tensor) -> Tensor:
        probability = m_hat.sigmoid()
        ctx.save_for_backward(probability)
        return (torch.rand_like(probability) < probability).to(m_hat.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (probability,) = ctx.saved_tensors
        gradient: Tensor = grads[0] * probability * (1 - probability)
        return gradient


class Coins(Sampled):
    """Parametrization ``w m`` with m ~ Bernoulli(sigma(m_hat)) in training.

    Attributes:
        rescale: multiply by weights over ones, of the mask in use.
    """

    def __init__(self, weight: Tensor, *, rescale: bool) -> None:
        super().__init__(weight)
        self.rescale = rescale

    def draw(self) -> Tensor:
        """Toss the coins."""
        mask: Tensor = _Bernoulli.apply(self.m_hat)
        return mask

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights, same shape, as large in sum as all of them if asked."""
        mask = self.mask()
        if self.rescale:
            weight = weight * (mask.numel() / mask.detach().sum().clamp(min=1))
        return weight * mask


class Supermask(Sampling):
    """Learn for each untrained weight the probability of keeping it; never train a weight.

    In training m ~ Bernoulli(sigma(m_hat)) is drawn at every step, its gradient passed
    straight through to sigma(m_hat). What is kept in the end are the weights more likely
    kept than not, at most the budget's number: the method finds its own rate, and with
    ``budget.weights = 1`` keeps just that. Biases and batch norms are not trained either.

    Source:
        Zhou, Lan, Liu & Yosinski, Deconstructing Lottery Tickets, NeurIPS 2019,
        arXiv:1905.01067, and its public code. As there: Gaussian Glorot weights, biases
        zero, logits from 0, their rate 100 without decay (1000 times a ``train.lr`` of
        0.1). Deviations: one network is shipped, the thresholded one; the paper's figure,
        the mean accuracy of drawn networks, is reported beside it. Evaluation never draws.
        A logit that is still exactly 0 is not kept. The rescaling is a constant to the
        gradient. The common deviations (``pipeline.methods``), less the guard: the paper's
        rate is constant, its momentum not Nesterov's.
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            rescale: multiply each layer's weights by their number over that of the ones
                in its mask (the paper's dynamic weight rescaling).
            signed_constant: replace the weights of a layer by their sign times their
                standard deviation.
            redraw: draw new weights and biases as the paper does, whatever the model
                came with; otherwise mask what it came with.
            mask_lr_factor: rate of the logits over ``train.lr``.
            samples: networks drawn after training, whose mean accuracy is reported;
                0 for none.
        """

        rescale: bool = True
        signed_constant: bool = False
        redraw: bool = True
        mask_lr_factor: float = Field(default=1000.0, gt=0)
        samples: int = Field(default=10, ge=0)

    params: Params

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Draw and freeze the weights, and give each its coin."""
        del phase
        draw = nn.init.xavier_normal_ if self.params.redraw else None
        own = frozen(model, draw, zero_biases=self.params.redraw)
        if self.params.signed_constant:
            own = with_signed_constants(own)
        register(own, lambda weight: Coins(weight, rescale=self.params.rescale))
        return own

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Train the logits alone, fast and without decay."""
        own = [m_hat for _, m_hat in logits(model)]
        return [undecayed(own, lr * self.params.mask_lr_factor)]

    def figures(
        self, model: nn.Module, accuracy: Callable[[nn.Module], float]
    ) -> dict[str, float]:
        """Return mean and standard deviation of the accuracy of drawn networks."""
        if not self.params.samples:
            return {}
        own = copy.deepcopy(model).train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = [accuracy(plain(own).eval()) for _ in range(self.params.samples)]
        return {
            "samples": float(len(found)),
            "sampled_accuracy": statistics.fmean(found),
            "sampled_accuracy_spread": statistics.stdev(found) if len(found) > 1 else 0.0,
        }
