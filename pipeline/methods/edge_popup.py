"""The highest-scored edges of a network whose weights are never trained (Ramanujan 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pipeline.core.record import Record
from pipeline.graph.counting import prunable
from pipeline.methods import Method, Phase, attached, register
from pipeline.methods._untrained import frozen


class _Top(torch.autograd.Function):
    """Ones at the k largest entries, zeros elsewhere; the gradient passes as it is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, k: int) -> Tensor:
        del ctx
        chosen = scores.flatten().topk(k, sorted=False).indices
        mask = torch.zeros_like(scores).flatten()
        mask[chosen] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        del ctx
        return grads[0], None


class Popup(nn.Module):
    """Parametrization ``w m``: m is one at the k weights of largest absolute score."""

    def __init__(self, weight: Tensor, k: int) -> None:
        super().__init__()
        self.k = k
        self.scores = nn.Parameter(torch.empty_like(weight))
        nn.init.kaiming_uniform_(self.scores, a=math.sqrt(5))

    def mask(self) -> Tensor:
        """Return exactly k ones, through which the scores are trained."""
        mask: Tensor = _Top.apply(self.scores.abs(), self.k)
        return mask

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights, same shape."""
        return weight * self.mask()


def shares(sizes: Sequence[int], keep: int) -> list[int]:
    """Split ``keep`` in proportion to ``sizes``, exactly and in whole numbers.

    What rounding leaves over goes to those that would have nothing, then to the largest
    remainders, then to the earlier.

    >>> shares([100, 50, 2], 38)
    [25, 12, 1]
    """
    total = sum(sizes)
    whole, rest = zip(*(divmod(keep * size, total) for size in sizes), strict=True)
    order = sorted(range(len(sizes)), key=lambda n: (whole[n] > 0, -rest[n]))
    favoured = set(order[: keep - sum(whole)])
    return [count + (n in favoured) for n, count in enumerate(whole)]


class EdgePopup(Method):
    """Score every untrained weight and let the best-scored of each layer pop up.

    In each layer the same fraction of the weights is used, those of largest absolute
    score; the gradient passes straight through to the scores. The counts of the layers are
    rounded so that together they are exactly the budget's.

    Source:
        Ramanujan, Wortsman, Kembhavi, Farhadi & Rastegari, What's Hidden in a Randomly
        Weighted Neural Network?, CVPR 2020, arXiv:1911.13299, and its public code. As
        there: scores from Kaiming uniform (a = sqrt 5), trained at ``train.lr`` with decay;
        no biases, batch norm without scale and shift. Deviations: the best epoch is
        not selected on the test set, as the code does; ``scale_fan``
        divides by the fraction kept, as the paper says (the code by the fraction removed);
        linear layers are scored as they are instead of as 1x1 convolutions; the common ones
        (``pipeline.methods``), less the guard.
    """

    class Params(Record):
        """Options of the method table.

        Attributes:
            weights: ``normal`` (Kaiming, by fan-in), ``signed_constant`` (the sign of these
                times their standard deviation), or ``given``: those the model came with.
            scale_fan: count only the fraction of the fan-in that is kept, so that
                activations are as large as in the whole network.
            biases: leave the biases as PyTorch draws them (as they came, where weights are
                given) instead of setting them to zero; never trained.
        """

        weights: Literal["normal", "signed_constant", "given"] = "signed_constant"
        scale_fan: bool = False
        biases: bool = False

    params: Params
    prunes: ClassVar[bool] = True

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Draw and freeze the weights, and give each its score."""
        del phase
        draw = None if self.params.weights == "given" else self._draw
        own = frozen(model, draw, zero_biases=not self.params.biases)
        sizes = [weight.numel() for weight in prunable(own).values()]
        counts = iter(shares(sizes, self.kept(own)))
        register(own, lambda weight: Popup(weight, next(counts)))
        return own

    def _draw(self, weight: Tensor) -> None:
        """Fill a weight in place."""
        fan_in = weight[0].numel()
        kept = self.budget.weights if self.params.scale_fan else 1.0
        std = math.sqrt(2 / (fan_in * kept))
        weight.normal_(0, std)
        if self.params.weights == "signed_constant":
            weight.copy_(weight.sign() * std)

    @torch.no_grad()
    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of largest absolute score of each layer."""
        return {name: popup.mask().bool() for name, popup, _ in attached(model, Popup)}
