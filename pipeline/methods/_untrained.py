"""What the methods share that choose among untrained weights: drawing, freezing, sampling."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from pipeline.graph.counting import PRUNABLE, prunable_count
from pipeline.methods import Method, attached, top_k

P = TypeVar("P", bound=nn.Module)


def frozen(
    model: nn.Module, draw: Callable[[Tensor], object] | None, *, zero_biases: bool = False
) -> nn.Module:
    """Return a copy none of whose parameters is trained, begun anew.

    Batch norms start at scale 1 and shift 0, biases as PyTorch draws them.

    Args:
        model: left as it was.
        draw: fills a weight in place; without, every parameter stays as it is.
        zero_biases: of convolutions and linear layers.
    """
    own = copy.deepcopy(model).requires_grad_(False)
    for module in own.modules():
        if draw is not None and isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()
        if isinstance(module, PRUNABLE):
            if draw is not None:
                module.reset_parameters()
                draw(module.weight)
            if zero_biases and module.bias is not None:
                module.bias.zero_()
    return own


def signed_constant(weight: Tensor) -> Tensor:
    """Return the signs of a layer's weights times their standard deviation.

    >>> signed_constant(torch.tensor([3.0, -1.0, -2.0])).abs().unique().numel()
    1
    """
    return weight.sign() * weight.std(unbiased=False)


def with_signed_constants(model: nn.Module) -> nn.Module:
    """Return a frozen copy whose layers hold one magnitude each."""
    own = copy.deepcopy(model)
    for module in own.modules():
        if isinstance(module, PRUNABLE):
            module.weight.copy_(signed_constant(module.weight))
    return own


def random_state() -> dict[str, Tensor]:
    """Return where torch's random numbers stand, on the CPU and the current CUDA device."""
    state = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        state["random.cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Let torch's random numbers go on from where ``random_state`` was asked."""
    torch.set_rng_state(state["random.cpu"].cpu())
    if "random.cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random.cuda"].cpu())


class Sampled(nn.Module):
    """Parametrization ``w m``: a mask drawn anew in training, ``m_hat > 0`` otherwise."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.m_hat = nn.Parameter(torch.zeros_like(weight))

    def draw(self) -> Tensor:
        """Return a mask of zeros and ones, through which ``m_hat`` is trained."""
        # Not an ABC: `attached` is asked for masks of any kind by this very class.
        raise NotImplementedError

    def mask(self) -> Tensor:
        """Return the mask of this forward pass, same shape as the weight."""
        return self.draw() if self.training else (self.m_hat > 0).to(self.m_hat.dtype)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the masked weights, same shape."""
        return weight * self.mask()


class Sampling(Method):
    """Base of the methods that learn how likely each untrained weight is to be kept.

    A logit that is still exactly 0 has never had a gradient: no mask that was drawn made
    its weight matter. It is not kept.
    """

    prunes: ClassVar[bool] = True
    chooses_rate: ClassVar[bool] = True

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return the expected size of a drawn mask as a fraction of all weights."""
        kept = sum(float(m_hat.sigmoid().sum()) for _, m_hat in logits(model))
        return kept / prunable_count(model)

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the weights of positive logit; of too many, the budget's number of largest.

        A smaller budget prunes the topology further, at the scale it was learnt with.
        """
        found = {name: m_hat.detach() for name, m_hat in logits(model)}
        masks = {name: m_hat > 0 for name, m_hat in found.items()}
        keep = self.kept(model)
        if sum(int(mask.sum()) for mask in masks.values()) <= keep:
            return masks
        return top_k(found, keep)

    def state(self) -> dict[str, Tensor]:
        """Return where the random numbers stand, of which the masks are drawn."""
        return random_state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Draw on from there."""
        set_random_state(state)


def logits(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the logits of each weight, by its plain parameter name."""
    for name, mask, _ in attached(model, Sampled):
        yield name, mask.m_hat
