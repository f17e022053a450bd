"""Which weights are kept: the largest of their scores, as many as are paid for."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.graph.tariff import Tariff

_SAMPLE = 65_536
_TINY = torch.finfo(torch.float64).tiny


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


def largest_within(scores: Tensor, fits: Callable[[Tensor], bool]) -> Tensor:
    """Keep the largest entries that fit, then every smaller one that still does.

    Args:
        scores: ``[n]``.
        fits: tells whether what a boolean ``[n]`` keeps is paid for; more never costs less.

    >>> two = largest_within(torch.tensor([4.0, 3.0, 1.0]), lambda kept: kept.sum() <= 2)
    >>> two.tolist()
    [True, True, False]
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(order.numel(), device=order.device)
    count = bisect.bisect_left(range(order.numel()), True, key=lambda n: not fits(place <= n))
    kept = place < count
    for entry in order[count:].tolist():
        more = kept.clone()
        more[entry] = True
        kept = more if fits(more) else kept
    return kept


def lamp(magnitudes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what part each weight has in what is left of its layer when it is the smallest.

    The score is the square of the weight over the sum of the squares of all in its layer
    that are no smaller. It ranks each layer as magnitudes do and is at most one, which the
    largest weight of every layer has: no layer is emptied before all have but one weight.

    Source:
        Lee, Park, Mo, Ahn & Shin, Layer-Adaptive Sparsity for the Magnitude-based Pruning,
        ICLR 2021, arXiv:2010.07611, equation 1.

    >>> lamp({"a": torch.tensor([1.0, 2.0, 2.0])})["a"].round(decimals=3).tolist()
    [0.111, 0.5, 1.0]
    """
    return {
        name: _lamp(size.detach().flatten()).view_as(size) for name, size in magnitudes.items()
    }


def _lamp(sizes: Tensor) -> Tensor:
    ascending, order = torch.sort(sizes, stable=True)
    scores = torch.empty_like(sizes)
    scores[order] = _shares(ascending.flip(0)).flip(0)
    return scores


def _shares(descending: Tensor) -> Tensor:
    """Return each square over the sum of those before it and itself; 0 where all are 0."""
    squares = descending.double().square()
    return (squares / squares.cumsum(0).clamp(min=_TINY)).to(descending.dtype)


def thresholds(
    magnitudes: Mapping[str, Tensor],
    price: Mapping[str, float],
    spend: float,
    *,
    scale_free: bool,
) -> dict[str, Tensor]:
    """Return, per layer, the magnitude between the weights that are paid for and the others.

    Layers of more than 65,536 weights are represented by as many of them, evenly taken:
    near enough for soft gates, and a tenth of the time.

    Args:
        magnitudes: by parameter name.
        price: of one weight, by parameter name.
        spend: what the kept weights may cost.
        scale_free: rank over all layers by LAMP scores instead of magnitudes.

    Returns:
        Scalars; 0 where a whole layer is kept.
    """
    samples = {name: _sample(size) for name, size in magnitudes.items()}
    scores = [_shares(s) if scale_free else s for s in samples.values()]
    prices = [
        torch.full_like(s, price[name] * magnitudes[name].numel() / s.numel())
        for name, s in samples.items()
    ]
    order = torch.sort(torch.cat(scores), descending=True, stable=True).indices
    paid = torch.zeros(order.numel(), dtype=torch.bool, device=order.device)
    paid[order] = torch.cat(prices)[order].double().cumsum(0) <= spend
    parts = paid.split([s.numel() for s in samples.values()])
    return {
        name: _border(sample, int(part.sum()))
        for (name, sample), part in zip(samples.items(), parts, strict=True)
    }


def _sample(sizes: Tensor) -> Tensor:
    """Return at most 65,536 entries, evenly taken, the largest first."""
    flat = sizes.detach().flatten()
    return flat[:: -(-flat.numel() // _SAMPLE)].sort(descending=True).values


def _border(descending: Tensor, count: int) -> Tensor:
    """Return the middle between the entry that is the last kept and the first that is not."""
    if count == descending.numel():
        return descending.new_zeros(())
    first_out = descending[count]
    return (descending[count - 1] + first_out) / 2 if count else 2 * first_out


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
