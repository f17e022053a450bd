"""Compact a network, prove that nothing changed, and look at what is left."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.graph.counting import count, demand_predicted
from pipeline.graph.equivalence import prove
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact


def outputs_equal(
    model: nn.Module, small: nn.Module, plan: CutPlan, shape: tuple[int, ...]
) -> None:
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(7))
    proof = prove(model, small, plan, images)
    assert len(proof.comparisons) >= 4
    for comparison in proof.comparisons:
        assert comparison.difference <= comparison.limit, comparison


def checked(model: nn.Module, shape: tuple[int, ...] = (3, 8, 8)) -> tuple[nn.Module, CutPlan]:
    """Compact a network, prove it, and hold that the argument was not touched."""
    model = model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    small, plan = compact(model, shape)
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()
    )
    outputs_equal(model, small, plan, shape)
    demand_predicted(count(model, shape), count(small, shape), plan)
    return small, plan


def widths(model: nn.Module) -> list[int]:
    return [m.weight.shape[0] for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def removed(plan: CutPlan) -> set[tuple[str, int]]:
    return {(r.layer, r.channel) for r in plan.removed}
