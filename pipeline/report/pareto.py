"""What is not beaten on both counts, and where more costs much for little."""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

_STRAIGHT = 1e-9  # above the line by no more than the rounding of floats


def front(points: Sequence[Point]) -> list[int]:
    """Return the points that no other beats, by cost.

    A point is beaten by one that costs no more and gains no less, and is better in one of the
    two; of equal points the first stays.

    Args:
        points: of cost, which should be little, and gain, which should be much.

    >>> front([(2, 0.9), (1, 0.8), (3, 0.85), (1, 0.8)])
    [1, 0]
    """
    best, found = -math.inf, []
    for number in sorted(range(len(points)), key=lambda n: (points[n][0], -points[n][1])):
        if points[number][1] > best:
            best = points[number][1]
            found.append(number)
    return found


def knee(points: Sequence[Point]) -> int | None:
    """Return the point of a front that is furthest above the line between its ends.

    Costs count by their logarithm, since those of networks differ by factors. A front of
    fewer than three points has no knee, nor has one that lies on or under that line.

    Source:
        Satopaa, Albrecht, Irwin & Raghavan, Finding a "Kneedle" in a Haystack, 2011,
        without their smoothing.

    >>> knee([(1, 0.5), (10, 0.9), (100, 0.95)]), knee([(1, 0.5), (10, 0.9)])
    (1, None)
    """
    if len(points) < 3 or points[0][0] <= 0:
        return None
    costs = [math.log(cost) for cost, _ in points]
    gains = [gain for _, gain in points]
    wide, high = costs[-1] - costs[0], gains[-1] - gains[0]
    above = [
        (gain - gains[0]) / high - (cost - costs[0]) / wide
        for cost, gain in zip(costs, gains, strict=True)
    ]
    best = max(range(len(points)), key=above.__getitem__)
    return best if above[best] > _STRAIGHT else None
