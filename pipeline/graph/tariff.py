"""What the weights of a network cost, in the unit of its budget.

One formula for all units: each kept weight has its layer's price, and so has each output
channel that keeps a weight. For whole channels it is exact, since what is left of a layer is
its kept inputs times its kept outputs; for single weights it counts what a runtime would
have to skip to gain from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.budget import Budget, Unit
from pipeline.core.errors import PareError
from pipeline.core.target import Calibration, Target
from pipeline.graph.counting import output_positions, prunable

_BYTES = 4  # of a float32


@dataclass(frozen=True)
class Tariff:
    """The prices of a network, and how much may be spent.

    Attributes:
        weight: price of one kept weight, by parameter name.
        output: price of one output channel that keeps a weight, by parameter name.
        fixed: what is spent whatever is pruned.
        whole: cost of the network with everything kept.
        limit: what may be spent.
    """

    weight: dict[str, float]
    output: dict[str, float]
    fixed: float
    whole: float
    limit: float

    @property
    def part(self) -> float:
        """The part of the whole that may be spent, at most 1."""
        return min(1.0, self.limit / self.whole)

    def cost(self, masks: Mapping[str, Tensor]) -> float:
        """Return what a network with these masks costs; masks may be soft, in [0, 1]."""
        return float(self._sum(masks))

    def soft_cost(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Return the cost as a float32 tensor that gradients flow through."""
        return self._sum(masks).float()

    def cost_of_channels(
        self,
        rows: Mapping[str, Tensor],
        columns: Mapping[str, Tensor],
        areas: Mapping[str, int],
    ) -> float:
        """Return the cost where a layer's mask is the product of its rows and its columns.

        Equal to ``cost`` of these products, without forming them.

        Args:
            rows: of each filter, ``[out]`` in [0, 1], by parameter name.
            columns: of each of its input channels, ``[in / groups]``.
            areas: positions of a kernel.
        """
        spent = self.fixed
        for name, row in rows.items():
            filters, column = row.sum(dtype=torch.float64), columns[name]
            inputs = areas[name] * column.sum(dtype=torch.float64)
            spent += float(
                filters * (self.weight[name] * inputs + self.output[name] * column.max())
            )
        return spent

    def _sum(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Return the cost in float64: of a hundred million weights, one still counts."""
        terms = [self._layer(name, mask) for name, mask in masks.items()]
        return torch.stack(terms).sum() + self.fixed

    def _layer(self, name: str, mask: Tensor) -> Tensor:
        spent = self.weight[name] * mask.sum(dtype=torch.float64)
        if self.output[name]:
            spent = spent + self.output[name] * mask.flatten(1).amax(1).sum(
                dtype=torch.float64
            )
        return spent


def tariff(model: nn.Module, shape: tuple[int, ...] | None, budget: Budget) -> Tariff:
    """Price the weights of a network in the unit of a budget.

    A latency is predicted as MACs / R + activation bytes / B + overhead, with the target's
    rates for float32 at its default threads; each layer writes its output once and what
    follows reads it once.

    Args:
        model: a plain network; it is not changed.
        shape: of one image, ``(c, h, w)``; macs and latency ask for it.
        budget: names the unit, the limit and, for a latency, the target.

    Raises:
        PareError: the target has no such calibration, or a single weight costs more than
            the limit.
    """
    weights = prunable(model)
    placed = shape if budget.unit in ("macs", "latency_ms") else None
    uses = output_positions(model, placed) if placed else {}
    per_weight = {
        name: float(uses.get(name.removesuffix("weight").removesuffix("."), 0))
        for name in weights
    }
    per_output = dict.fromkeys(weights, 0.0)
    fixed, limit = 0.0, budget.limit
    if budget.unit == "weights":
        per_weight = dict.fromkeys(weights, 1.0)
    elif budget.unit == "bytes":
        per_weight = dict.fromkeys(weights, float(_BYTES))
        others = sum(p.numel() for p in model.parameters())
        fixed = _BYTES * (others - sum(w.numel() for w in weights.values()))
    elif budget.unit == "latency_ms":
        rates = _rates(str(budget.target))
        per_output = {n: 2e-6 * _BYTES * m / rates.b_gb_s for n, m in per_weight.items()}
        per_weight = {n: 1e-6 * m / rates.r_gmac_s for n, m in per_weight.items()}
        fixed = 1e-3 * rates.overhead_us
    everything = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    free = Tariff(per_weight, per_output, fixed, 1.0, 1.0)
    whole = free.cost(everything)
    if budget.unit in ("weights", "macs"):
        limit *= whole
    # A layer that is never called costs nothing, and is no network.
    least = fixed + min((p + per_output[n] for n, p in per_weight.items() if p), default=0.0)
    if limit * (1 + 1e-9) < least:
        raise PareError(
            f"budget.{budget.unit} = {budget.limit:g} keeps no weight: with one the network "
            f"costs {_figure(least, budget.unit)}, whole {_figure(whole, budget.unit)}. "
            "Raise the budget."
        )
    return Tariff(per_weight, per_output, fixed, whole, limit)


def _figure(value: float, unit: Unit) -> str:
    """Write a cost with its unit.

    >>> _figure(1676.0, "bytes"), _figure(0.12345, "latency_ms")
    ('1,676 bytes', '0.123 ms')
    """
    if unit == "latency_ms":
        return f"{value:.3g} ms"
    return f"{value:,.0f} {'MACs' if unit == 'macs' else unit}"


def _rates(name: str) -> Calibration:
    """Return the rates of a target for float32, those of its default threads first."""
    target = Target.load(name)
    fitting = [row for row in target.calibration if row.dtype == "fp32"]
    if not fitting:
        raise PareError(
            f"budget.target = {name!r} has no calibration for float32, so no latency can be "
            "predicted. Choose another target, or a budget in macs."
        )
    defaults = {runtime.default_threads for runtime in target.runtimes}
    return next((row for row in fitting if row.threads in {*defaults, None}), fitting[0])
