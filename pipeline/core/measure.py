"""A number that never travels without its unit, its n, its conditions and its basis."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.core.record import Record

Basis = Literal["measured", "predicted", "bound"]


class Measure(Record):
    """One figure and how it was obtained.

    ``spread`` is the interval ``(low, high)`` that belongs to the value: a prediction's
    error interval or a measurement's bootstrap interval. A missing measure is ``None`` in
    its owner, never a zero.

    >>> print(Measure(value=1.234, unit="ms", basis="predicted", spread=(0.6, 2.5)))
    1.23 ms (0.6 to 2.5, predicted)
    >>> print(Measure(value=0.98, unit="", basis="measured", n=270))
    0.98 (measured, n=270)
    """

    value: float
    unit: str
    basis: Basis
    n: int | None = None
    spread: tuple[float, float] | None = None
    conditions: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        how = [self.basis] if self.n is None else [self.basis, f"n={self.n}"]
        if self.spread:
            how = [f"{self.spread[0]:.3g} to {self.spread[1]:.3g}", *how]
        return f"{self.value:.3g}{unit} ({', '.join(how)})"
