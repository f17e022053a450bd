"""Networks that torch.fx cannot trace and torch.export can, and functional calls.

What ``torch.export`` gives has parameters in the graph and no modules: they become modules,
so that one set of rules serves both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from proving import checked, removed
from tiny import kill, settle
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.graph.counting import count, demand_predicted
from pipeline.graph.equivalence import prove
from pipeline.graph.surgery import compact, rebuild

SHAPE = (3, 8, 8)


class Written(nn.Module):
    """Two convolutions, two dead filters in the first, and a forward pass as a function."""

    def __init__(self, forward: Callable[[Written, Tensor], Any], **more: nn.Module) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 4, 1)
        for name, module in more.items():
            self.add_module(name, module)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def pruned(forward: Callable[[Written, Tensor], Any], **more: nn.Module) -> nn.Module:
    model = settle(Written(forward, **more), 1)
    kill(model.a, [0, 3])
    with torch.no_grad():
        model.a.bias.copy_(torch.tensor([0.5, 0.1, 0.1, -0.7, 0.1, 0.1]))
    return model


def branch_on_the_channels(m, x):
    if x.shape[1] == 3:
        return m.b(F.relu(m.a(x)))
    return m.b(x)


def branch_on_the_rank(m, x):
    y = F.relu(m.a(x))
    return m.b(y) if len(y.shape) == 4 else m.b(y[None])


def branch_on_the_size(m, x):
    y = F.relu(m.a(x))
    if y.size(1) != 6 or y.size(-1) < 2:
        y = y + 1
    return m.b(y)


def loop_over_unbound_channels(m, x):
    total = 0.0
    for plane in x.unbind(1):
        total = total + plane.unsqueeze(1) * 0.5
    return m.b(F.relu(m.a(x - total)))


def loop_over_a_range_of_a_size(m, x):
    y = x
    for index in range(x.shape[1]):
        y = y + index
    return m.b(F.relu(m.a(y)))


def length(m, x):
    return m.b(F.relu(m.a(x)) / len(x[0]))


def is_instance(m, x):
    y = F.relu(m.a(x))
    return m.b(y if isinstance(y, Tensor) else y[0])


def several(*values):
    total = 0.0
    for value in values:
        total = total + value
    return total


def star_arguments(m, x):
    parts = [F.relu(m.a(x)), F.relu(m.a2(x))]
    assert isinstance(parts[0], Tensor)
    return m.b(several(*parts))


def in_place_under_another_name(m, x):
    y = m.a(x)
    alias = y
    y += 1.0
    return m.b(F.relu(alias))


def in_place_on_a_part(m, x):
    y = F.relu(m.a(x))
    part = y[:, :, :2]
    part.mul_(2.0)
    return m.b(y)


def sizes_into_python_integers(m, x):
    y = F.relu(m.a(x))
    side = int(y.shape[-1])
    return m.b(F.max_pool2d(y, side // 4))


#: What fx refuses, or traces wrongly; with the channels of ``a`` that leave.
EXPORTED = {
    branch_on_the_channels: {0, 3},
    branch_on_the_rank: {0, 3},
    branch_on_the_size: {0, 3},
    loop_over_unbound_channels: {0, 3},
    loop_over_a_range_of_a_size: {0, 3},
    length: {0, 3},
    is_instance: {0, 3},
    in_place_under_another_name: {0, 3},
    sizes_into_python_integers: {0, 3},
}


@pytest.mark.parametrize("forward", EXPORTED, ids=lambda f: f.__name__)
def test_what_fx_cannot_trace_is_exported_and_cut(forward) -> None:
    model = pruned(forward)
    small, plan = checked(model)
    assert {channel for _, channel in removed(plan)} == EXPORTED[forward]
    kept = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in kept] == [(3, 4), (4, 4)]
    assert count(small, SHAPE).weights == 4 * 27 + 4 * 4


def refused_by_fx(forward) -> bool:
    try:
        traced = fx.symbolic_trace(pruned(forward))
    except Exception:  # whatever fx raises for a kind of code
        return True
    images = torch.randn(2, *SHAPE)
    return not torch.equal(traced(images), pruned(forward)(images))


@pytest.mark.parametrize(
    "forward",
    [
        branch_on_the_size, loop_over_unbound_channels, loop_over_a_range_of_a_size, length,
        in_place_under_another_name, sizes_into_python_integers,
    ],
    ids=lambda f: f.__name__,
)  # fmt: skip
def test_fx_alone_would_not_do(forward) -> None:
    """The twin: these cases do take the other way."""
    assert refused_by_fx(forward)


def test_star_arguments() -> None:
    model = pruned(star_arguments, a2=nn.Conv2d(3, 6, 1))
    kill(model.a2, [3, 4])
    with torch.no_grad():
        model.a2.bias.fill_(0.25)
    _, plan = checked(model)
    assert removed(plan) == {("a", 3), ("a2", 3)}
    assert plan.folds["b"].constants == {3: 0.25}


def test_a_part_changed_in_place() -> None:
    model = pruned(in_place_on_a_part)
    _, plan = checked(model)
    assert removed(plan) <= {("a", 0), ("a", 3)}


def test_an_exported_network_travels_as_a_plan_and_weights() -> None:
    model = pruned(branch_on_the_size)
    small, plan = compact(model, SHAPE)
    blank = rebuild(model, SHAPE, type(plan).model_validate_json(plan.model_dump_json()))
    blank.load_state_dict(small.state_dict())
    images = torch.randn(3, *SHAPE)
    assert torch.equal(small(images), blank(images))


def test_an_exported_network_takes_other_sizes_and_batches() -> None:
    model = pruned(in_place_under_another_name)
    small, plan = compact(model, SHAPE)
    proof = prove(model, small, plan, torch.randn(1, *SHAPE))
    assert proof.holds
    assert any(c.what == "noise at another size" for c in proof.comparisons)
    images = torch.randn(5, 3, 12, 10)
    torch.testing.assert_close(small(images), model(images), rtol=1e-4, atol=1e-5)


# --- functional calls ----------------------------------------------------------------------


class Functional(nn.Module):
    """Everything by functions, as in hand-written code."""

    def __init__(self, *, export: bool = False, shared: bool = False) -> None:
        super().__init__()
        self.export, self.shared = export, shared
        self.w = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.3)
        self.b = nn.Parameter(torch.randn(6))
        self.gamma = nn.Parameter(torch.rand(6) + 0.5)
        self.beta = nn.Parameter(torch.randn(6))
        self.register_buffer("mean", torch.randn(6))
        self.register_buffer("var", torch.rand(6) + 0.5)
        self.slope = nn.Parameter(torch.rand(6) * 0.5)
        self.w2 = nn.Parameter(torch.randn(6, 1, 3, 3) * 0.3)
        self.w3 = nn.Parameter(torch.randn(5, 6, 1, 1) * 0.3)
        self.scale = nn.Parameter(torch.rand(5) + 0.5)
        self.shift = nn.Parameter(torch.randn(5))
        self.w4 = nn.Parameter(torch.randn(8, 5) * 0.3)
        self.w5 = nn.Parameter(torch.randn(4, 8) * 0.3)
        self.b5 = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.export and x.shape[1] != 3:
            raise ValueError("three channels, please")
        y = F.conv2d(x, self.w, self.b, padding=1)
        if self.shared:
            y = y + F.conv2d(F.relu(x), self.w, self.b, padding=1)
        y = F.batch_norm(y, self.mean, self.var, self.gamma, self.beta, training=False)
        y = F.prelu(y, self.slope)
        y = F.conv2d(y, self.w2, groups=6, stride=2)
        y = F.conv2d(y, self.w3).mean((2, 3))
        y = F.layer_norm(y, (5,), self.scale, self.shift)
        return F.linear(F.relu(F.linear(y, self.w4)), self.w5, bias=self.b5)


@pytest.mark.parametrize("export", [False, True], ids=["fx", "export"])
def test_functional_calls_on_parameters_become_modules_and_are_cut(export: bool) -> None:
    torch.manual_seed(2)
    model = Functional(export=export)
    with torch.no_grad():
        model.w[[1, 4]] = 0
        model.w4[[0, 3, 6]] = 0
    small, plan = compact(model.eval(), SHAPE)
    proof = prove(model, small, plan, torch.randn(2, *SHAPE))
    assert proof.holds, proof
    kinds = {type(m).__name__ for m in small.modules()}
    assert kinds >= {"Conv2d", "BatchNorm2d", "PReLU", "LayerNorm", "Linear"}
    found = [m for m in small.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.groups) for m in found] == [
        (3, 4, 1), (4, 4, 4), (4, 5, 1),
    ]  # fmt: skip
    linear = [m for m in small.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(5, 5), (5, 4)]
    (slope,) = [m for m in small.modules() if isinstance(m, nn.PReLU)]
    assert slope.num_parameters == 4
    assert len(plan.removed) == 2 + 2 + 3


def test_the_counts_of_functional_calls_are_predicted() -> None:
    model = Functional().eval()
    small, plan = compact(model, SHAPE)
    before = count(model, SHAPE)
    demand_predicted(before, count(small, SHAPE), plan)
    assert plan.is_empty


def test_a_weight_shared_by_two_functional_calls_stays() -> None:
    torch.manual_seed(3)
    model = Functional(shared=True)
    with torch.no_grad():
        model.w[[1, 4]] = 0
        model.w4[[0, 3, 6]] = 0
    small, plan = compact(model.eval(), SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert small.w.shape == (6, 3, 3, 3)
    assert {len(c.kept_outputs) for c in plan.layers.values()} >= {5}


def test_a_weight_shared_by_a_call_and_a_module_stays() -> None:
    model = pruned(lambda m, x: m.b(F.relu(m.a(x)) + F.conv2d(x, m.a.weight, padding=1)))
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert plan.is_empty


def test_a_weight_that_is_computed_stays() -> None:
    def forward(m, x):
        return m.b(F.relu(F.conv2d(x, m.a.weight * 2.0, m.a.bias, padding=1)))

    model = pruned(forward)
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert plan.is_empty


@pytest.mark.parametrize("name", ["conv1d", "conv3d"])
def test_functional_convolutions_of_other_ranks(name: str) -> None:
    rank = int(name[4])

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3, *[3] * rank))
            self.w2 = nn.Parameter(torch.randn(4, 6, *[1] * rank))

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2) if rank == 1 else x.unsqueeze(2).repeat(1, 1, 4, 1, 1)
            convolve = getattr(F, name)
            return convolve(torch.sigmoid(convolve(x, self.w)), self.w2)

    torch.manual_seed(4)
    model = Other().eval()
    with torch.no_grad():
        model.w[[0, 5]] = 0
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    (fold,) = plan.folds.values()
    assert fold.constants == {0: 0.5, 5: 0.5}
    assert [p.shape[0] for p in small.parameters() if p.dim() > 1] == [4, 4]


# --- several outputs, refusals -------------------------------------------------------------


def as_tuple(m, x):
    y = F.relu(m.a(x))
    return m.b(y), y.mean((2, 3))[:, 1:3]


def as_list_of_one(m, x):
    return [m.b(F.relu(m.a(x)))]


def as_dict(m, x):
    y = F.relu(m.a(x))
    return {"deep": m.b(y), "side": m.c(y)}


def as_nested(m, x):
    y = F.relu(m.a(x))
    return {"out": (m.b(y), [m.c(y)])}


@pytest.mark.parametrize("export", [False, True], ids=["fx", "export"])
@pytest.mark.parametrize(
    "forward", [as_list_of_one, as_dict, as_nested], ids=lambda f: f.__name__
)
def test_several_outputs_keep_their_structure(forward, export: bool) -> None:
    def guarded(m, x):
        if export and x.shape[1] != 3:
            raise ValueError("three channels, please")
        return forward(m, x)

    model = pruned(guarded, c=nn.Conv2d(6, 2, 1))
    small, plan = compact(model, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert prove(model, small, plan, images).holds
    assert removed(plan) == {("a", 0), ("a", 3)}
    before, after = model(images), small(images)
    assert type(before) is type(after)
    if isinstance(before, dict):
        assert before.keys() == after.keys()


def test_a_hidden_value_that_is_also_an_output_keeps_its_width() -> None:
    def forward(m, x):
        y = F.relu(m.a(x))
        return m.b(y), y

    model = pruned(forward)
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert plan.is_empty
    assert small(torch.randn(2, *SHAPE))[1].shape == (2, 6, 8, 8)


def test_a_part_of_a_hidden_value_as_an_output_keeps_that_part() -> None:
    model = pruned(as_tuple)
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert removed(plan) >= {("a", 3)}


def test_a_refusal_of_both_names_the_line_and_the_remedy() -> None:
    def forward(m, x):
        y = F.relu(m.a(x))
        return m.b(y) if y.mean() > 0.2 else m.b(-y)

    with pytest.raises(PareError) as refusal:
        compact(pruned(forward), SHAPE)
    message = str(refusal.value)
    assert "Written cannot be traced" in message
    assert "test_export_way.py" in message
    assert "torch.fx.wrap" in message
    assert "without branches or loops that depend on tensor values" in message


def test_a_loop_until_the_data_says_stop_is_refused() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            while x.abs().max() > 1:
                x = self.a(x) * 0.1
            return x

    with pytest.raises(PareError) as refusal:
        compact(Loop(), SHAPE)
    assert "`while x.abs().max() > 1:`" in str(refusal.value)
    assert "Loop cannot be traced" in str(refusal.value)
