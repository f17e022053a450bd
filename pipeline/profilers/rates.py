"""Two effective rates fitted to timed networks, and how far they miss one left out.

Least squares on relative errors, so that a slow network counts no more than a fast one.
Both costs (milliseconds a MAC, milliseconds a byte) must come out positive. Where the
networks can't tell them apart, because there is one network only, because all have the same
MACs for a byte, or because the best of the two costs would be negative, a *balance* known
from elsewhere (how many MACs take as long as one byte) leaves a single rate to be fitted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from pipeline.core.target import Rates

_APART = 1e-6  # of 1: below it, two networks differ in their size alone
_BALANCES = [0.5 * 1.03**step for step in range(204)]  # 0.5 to 200 MACs a byte


class Run(NamedTuple):
    """One timed network. ``ms`` is positive."""

    macs: float
    activation_bytes: float
    ms: float


class Fit(NamedTuple):
    """Rates, and whether the runs alone gave both of them."""

    rates: Rates
    own: bool


def fit(runs: Sequence[Run], balance: float | None = None) -> Fit | None:
    """Fit two rates to timed networks.

    Args:
        runs: at least one.
        balance: MACs that take as long as one byte, used where the runs don't tell.

    Returns:
        ``None`` where the runs don't tell both rates and no balance is given.

    >>> found = fit([Run(100e6, 4e6, 12.0), Run(200e6, 2e6, 21.0)])
    >>> round(found.rates.r_gmac_s, 6), round(found.rates.b_gb_s, 6), found.own
    (10.0, 2.0, True)
    >>> fit([Run(100e6, 4e6, 12.0)]) is None
    True
    >>> round(fit([Run(100e6, 4e6, 12.0)], balance=5.0).rates.b_gb_s, 6)
    2.0
    """
    macs = [run.macs * 1e-6 / run.ms for run in runs]
    moved = [run.activation_bytes * 1e-6 / run.ms for run in runs]
    costs = _costs(macs, moved)
    if costs is not None:
        return Fit(Rates(r_gmac_s=1 / costs[0], b_gb_s=1 / costs[1]), own=True)
    if balance is None:
        return None
    bytes_alone = [m / balance + b for m, b in zip(macs, moved, strict=True)]
    rate = _dot(bytes_alone, bytes_alone) / math.fsum(bytes_alone)
    return Fit(Rates(r_gmac_s=balance * rate, b_gb_s=rate), own=False)


def _costs(macs: Sequence[float], moved: Sequence[float]) -> tuple[float, float] | None:
    """Return what minimises sum((cost_m * macs + cost_b * moved - 1)^2), if it is positive."""
    mm, mb, bb = _dot(macs, macs), _dot(macs, moved), _dot(moved, moved)
    determinant = mm * bb - mb * mb
    if determinant <= _APART * mm * bb:
        return None
    m, b = math.fsum(macs), math.fsum(moved)
    cost_m, cost_b = (m * bb - b * mb) / determinant, (b * mm - m * mb) / determinant
    return (cost_m, cost_b) if cost_m > 0 and cost_b > 0 else None


def leave_one_out(
    runs: Sequence[Run], balances: Sequence[float | None] | None = None
) -> list[float] | None:
    """Return the relative error of predicting each network from all others, signed.

    Args:
        runs: at least two, of different networks.
        balances: one for each network left out, found without it.

    Returns:
        ``None`` where one of them can't be predicted from the others.
    """
    errors = []
    for left, run in enumerate(runs):
        others = [other for index, other in enumerate(runs) if index != left]
        found = fit(others, balances[left] if balances else None)
        if found is None:
            return None
        errors.append(error(run, found.rates))
    return errors


def error(run: Run, rates: Rates) -> float:
    """Return by how much of the measured time a prediction is too long."""
    return rates.ms(run.macs, run.activation_bytes) / run.ms - 1


def mape(errors: Collection[float]) -> float:
    """Return the mean absolute error in percent.

    >>> mape([0.1, -0.3])
    20.0
    """
    return 100 * math.fsum(map(abs, errors)) / len(errors)


def common_balance(sets: Sequence[Sequence[Run]]) -> float | None:
    """Return the balance that fits several devices at once, each at a speed of its own.

    Args:
        sets: the runs of each device; one run alone says nothing of a balance.

    Returns:
        MACs that take as long as one byte, one of 204 values 3 % apart; ``None`` if no
        set has two runs.
    """
    telling = [runs for runs in sets if len(runs) > 1]
    if not telling:
        return None
    return min(_BALANCES, key=lambda balance: math.fsum(_misfit(r, balance) for r in telling))


def _misfit(runs: Sequence[Run], balance: float) -> float:
    """Return the squared relative errors that are left at a balance, at the best speed."""
    times = [(run.macs / balance + run.activation_bytes) / run.ms for run in runs]
    return len(times) - math.fsum(times) ** 2 / _dot(times, times)


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))
