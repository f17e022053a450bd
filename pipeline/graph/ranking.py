"""Which weights are kept: the largest of their scores, as many as are paid for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.graph.tariff import Tariff


def top_k(scores: Mapping[str, Tensor], keep: int) -> dict[str, Tensor]:
    """Keep exactly ``keep`` entries over all tensors together, those of largest score.

    Ties fall to the earlier tensor, and within it to the earlier entry.

    >>> masks = top_k({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 1.0])}, 2)
    >>> [mask.tolist() for mask in masks.values()]
    [[True, False], [True, False]]
    """
    return _first(_descending(scores), keep, scores)


def top_k_by_layer(
    scores: Mapping[str, Tensor],
    keep: int,
    output_rate_factor: float = 1.0,
    conv_rate_factor: float = 1.0,
) -> dict[str, Tensor]:
    """Keep the entries of largest score of each layer; exactly ``keep`` of all layers.

    Where the others keep the fraction q, a layer with the factor f keeps ``q^f``: what many
    rounds leave that prune it f times as fast.

    Args:
        scores: one tensor a layer, in the order of the network.
        keep: entries in all.
        output_rate_factor: of the last layer.
        conv_rate_factor: of convolutions, whose scores are ``[out, in, kh, kw]``.

    >>> masks = top_k_by_layer({"a": torch.tensor([9.0, 8.0]), "b": torch.arange(4.0)}, 3)
    >>> [mask.tolist() for mask in masks.values()]
    [[True, False], [False, False, True, True]]
    """
    factors = {n: conv_rate_factor if s.dim() == 4 else 1.0 for n, s in scores.items()}
    factors[list(scores)[-1]] = output_rate_factor
    low, high = 0.0, 1.0
    for _ in range(60):  # halvings: as near as a float64 comes
        q = (low + high) / 2
        spent = sum(score.numel() * q ** factors[name] for name, score in scores.items())
        low, high = (q, high) if spent < keep else (low, q)
    ranked = {}
    for name, score in scores.items():
        order = score.detach().flatten().argsort(stable=True).argsort(stable=True)
        # An entry's rank above its own layer's threshold, as a part of the layer: the top
        # of these over all layers is the wanted part of each, and the number is exact.
        place = (order.double() + 0.5) / score.numel() - (1 - high ** factors[name])
        ranked[name] = place.view_as(score)
    return top_k(ranked, keep)


def within(scores: Mapping[str, Tensor], prices: Tariff, part: float) -> dict[str, Tensor]:
    """Keep the weights of largest score whose cost is at most a part of the whole.

    Ties fall to the earlier tensor, and within it to the earlier entry.

    Args:
        scores: by parameter name, each of its weight's shape.
        prices: of the same names.
        part: of the cost of the whole network, in [0, 1].
    """
    order = _descending(scores)
    low, high = 0, order.numel()
    while low < high:  # the cost only grows with the number that is kept
        middle = (low + high + 1) // 2
        if prices.cost(_first(order, middle, scores)) <= part * prices.whole * (1 + 1e-9):
            low = middle
        else:
            high = middle - 1
    return _first(order, low, scores)


def _descending(scores: Mapping[str, Tensor]) -> Tensor:
    """Return the order of all entries of all tensors together, the largest first."""
    flat = torch.cat([score.detach().flatten() for score in scores.values()])
    return torch.sort(flat, descending=True, stable=True).indices


def _first(order: Tensor, count: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return masks of the first ``count`` entries of an order over all tensors together."""
    chosen = torch.zeros(order.numel(), dtype=torch.bool, device=order.device)
    chosen[order[:count]] = True
    parts = chosen.split([score.numel() for score in like.values()])
    return {name: part.view_as(like[name]) for name, part in zip(like, parts, strict=True)}
