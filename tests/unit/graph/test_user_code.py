"""Networks as users write them: in-place operations, sizes as numbers, shared modules.

Each case went wrong in an early version of the analysis or is easy to get wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from tiny import kill, settle
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from pipeline.core.errors import PareError
from pipeline.graph.channels import effective_masks
from pipeline.graph.counting import count, demand_predicted, predict, prunable
from pipeline.graph.equivalence import prove
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.mutations import follow_mutations
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact
from pipeline.graph.trace import trace

SHAPE = (3, 8, 8)


class Written(nn.Module):
    """Three convolutions and whatever a case makes of them."""

    def __init__(
        self, forward: Callable[[Written, Tensor], Tensor], **modules: nn.Module
    ) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 4, 3, padding=1)
        self.c = nn.Conv2d(6, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        for name, module in modules.items():
            self.add_module(name, module)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def checked(forward: Callable[..., Tensor], **modules: nn.Module) -> tuple[nn.Module, CutPlan]:
    """Compact the network with two dead filters in ``a`` and prove it."""
    model = settle(Written(forward, **modules), 1)
    kill(model.a, [0, 3])
    with torch.no_grad():
        model.a.bias.copy_(torch.tensor([0.5, 0.1, 0.1, -0.7, 0.1, 0.1]))
    small, plan = compact(model, SHAPE)
    proof = prove(model, small, plan, torch.randn(3, *SHAPE))
    assert all(c.holds for c in proof.comparisons), proof
    demand_predicted(count(model, SHAPE), count(small, SHAPE), plan)
    return small, plan


def removed(plan: CutPlan) -> set[tuple[str, int]]:
    return {(r.layer, r.channel) for r in plan.removed}


def inplace_statement(m, x):
    y = m.a(x)
    m.relu(y)
    return m.b(y)


def inplace_with_result_and_reader(m, x):
    y = m.a(x)
    z = m.relu(y)
    return m.b(z) + m.c(y)


def functional_underscore(m, x):
    y = m.a(x)
    F.relu_(y)
    return m.b(y)


def functional_inplace_keyword(m, x):
    y = m.a(x)
    F.relu(y, inplace=True)
    return m.b(y)


def functional_inplace_by_position(m, x):
    y = m.a(x)
    F.relu(y, True)
    return m.b(y)


def method_underscore(m, x):
    y = m.a(x)
    y.add_(1.0)
    return m.b(y)


@pytest.mark.parametrize(
    "forward",
    [
        inplace_statement, inplace_with_result_and_reader, functional_underscore,
        functional_inplace_keyword, functional_inplace_by_position, method_underscore,
    ],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_operations_in_place(forward) -> None:
    small, _ = checked(forward)
    assert count(small, SHAPE).weights <= 6 * 27 + 4 * 54 + 24


def test_an_operation_in_place_does_not_hide_what_can_leave() -> None:
    _, plan = checked(inplace_statement)
    assert ("a", 3) in removed(plan)  # relu makes its constant zero


def test_what_torch_fx_traces_wrongly_is_exported_instead() -> None:
    """It takes ``y += 1`` for ``y = y + 1``, whatever else the value is called."""

    def forward(m, x):
        y = m.a(x)
        alias = y
        y += 1.0
        return m.b(alias)

    checked(forward)


def test_what_no_trace_can_repeat_is_refused() -> None:
    def forward(m, x):
        return m.b(m.a(x)) + torch.rand_like(x[:, :1])

    with pytest.raises(PareError, match=r"computes something else than its code.*Randomness"):
        compact(settle(Written(forward), 1), SHAPE)


def test_a_view_of_a_value_changed_later_is_exported_instead() -> None:
    def forward(m, x):
        y = m.a(x)
        flat = y.view(y.size(0), -1)
        m.relu(y)
        return m.b(y).mean((2, 3)) + flat.mean(1, keepdim=True)

    with pytest.raises(PareError, match="changes a value in place of which"):
        follow_mutations(fx.symbolic_trace(Written(forward)))
    checked(forward)


def test_dropout_in_place_and_a_view_made_after_the_change_are_no_danger() -> None:
    def forward(m, x):
        y = m.drop(torch.flatten(m.a(x), 1))
        m.relu(y)
        return m.fc(m.drop(y.view(y.size(0), -1)))

    modules = {"drop": nn.Dropout(0.5, inplace=True), "fc": nn.Linear(384, 5)}
    _, plan = checked(forward, **modules)
    assert ("a", 3) in removed(plan)


def test_a_batch_norm_that_is_shared_takes_no_constants() -> None:
    def forward(m, x):
        return m.n(m.c2(torch.relu(m.a(x)))) + m.n(m.d(x))

    _, plan = checked(
        forward, n=nn.BatchNorm2d(4), c2=nn.Conv2d(6, 4, 1, bias=False), d=nn.Conv2d(3, 4, 1)
    )
    assert plan.folds["c2"].into == "bias"


def test_a_shared_batch_norm_without_parameters_is_not_cut_twice() -> None:
    def forward(m, x):
        return m.b(m.n(torch.relu(m.n(m.a(x)))))

    checked(forward, n=nn.BatchNorm2d(6, affine=False))


def test_tied_weights_are_left_alone() -> None:
    twin = nn.Conv2d(3, 6, 3, padding=1)

    def forward(m, x):
        return m.b(torch.relu(m.a(x))) + m.c(torch.relu(m.twin(x)))

    model = settle(Written(forward, twin=twin), 1)
    model.twin.weight = model.a.weight
    kill(model.a, [0])
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    assert ("a", 0) not in removed(plan)
    assert len(prunable(model)) == 3
    assert count(model, SHAPE).weights == 6 * 27 + 4 * 54 + 24


def test_a_weight_read_directly_is_left_alone() -> None:
    def forward(m, x):
        return m.b(torch.relu(m.a(x)) + F.conv2d(x, m.a.weight, padding=1))

    _, plan = checked(forward)
    assert not {layer for layer, _ in removed(plan)} & {"a"}


@pytest.mark.parametrize("how", ["size", "shape", "whole"])
def test_the_number_of_channels_used_as_a_number_keeps_them(how: str) -> None:
    def forward(m, x):
        y = m.a(x)
        width = {"size": lambda: y.size(1), "shape": lambda: y.shape[1]}.get(
            how, lambda: y.size()[1]
        )()
        return m.b(torch.relu(y)) * width**-0.5

    small, _ = checked(forward)
    assert dict(small.named_modules())["a"].out_channels == 6


def test_other_sizes_used_as_numbers_keep_nothing() -> None:
    def forward(m, x):
        y = m.a(x)
        n, _, h, w = y.shape
        return m.b(torch.relu(y)) / (h * w) + n * 0.0

    _, plan = checked(forward)
    assert ("a", 3) in removed(plan)


@pytest.mark.parametrize(
    "flatten",
    [
        lambda y: y.view(y.size(0), y.size(1) * 64),
        lambda y: y.view(y.shape[0], y.shape[1] * y.shape[2] * y.shape[3]),
        lambda y: torch.reshape(y, shape=(-1, 384)),
        lambda y: torch.reshape(input=y, shape=(-1, 384)),
        lambda y: y.reshape((-1, 384)),
        lambda y: y.view((y.size(0), 384)),
    ],
)
def test_flattening_by_computed_sizes(flatten) -> None:
    def forward(m, x):
        return m.fc(flatten(torch.relu(m.a(x))))

    small, plan = checked(forward, fc=nn.Linear(384, 5))
    assert removed(plan) == {("a", 0), ("a", 3)}
    assert dict(small.named_modules())["fc"].in_features == 256


def test_a_size_taken_from_another_value_is_rewritten_too() -> None:
    """The two convolutions are as wide as each other before the cut, and not after."""

    def forward(m, x):
        y, z = torch.relu(m.a(x)), torch.relu(m.d(x))
        return m.fc(y.view(y.size(0), z.size(1) * 64)) + m.e(z).mean((2, 3))

    _, plan = checked(
        forward, d=nn.Conv2d(3, 6, 1), e=nn.Conv2d(6, 5, 1), fc=nn.Linear(384, 5)
    )
    assert ("a", 0) in removed(plan)


def test_a_fixed_view_behind_padded_convolutions_is_proved_at_its_own_size() -> None:
    """A larger image would be swallowed as more rows; that is no comparison."""

    def forward(m, x):
        return m.fc(torch.relu(m.b(torch.relu(m.a(x)))).view(-1, 256))

    model = settle(Written(forward, fc=nn.Linear(256, 5)), 1)
    kill(model.b, [0])
    small, plan = compact(model, SHAPE)
    proof = prove(model, small, plan, torch.randn(3, *SHAPE))
    assert proof.holds
    assert not any("another size" in c.what for c in proof.comparisons)


@pytest.mark.parametrize(
    "pool",
    [
        lambda y: y.mean(3).mean(2),
        lambda y: y.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
        lambda y: F.adaptive_avg_pool2d(y, 1)[:, :, 0, 0],
        lambda y: y.amax(dim=(2, 3)),
        lambda y: torch.flatten(y.mean((-2, -1), keepdim=True), 1),
    ],
)
def test_ways_to_pool_over_the_image(pool) -> None:
    def forward(m, x):
        return m.fc(pool(torch.relu(m.a(x))))

    _, plan = checked(forward, fc=nn.Linear(6, 5))
    assert removed(plan) == {("a", 0), ("a", 3)}


@pytest.mark.parametrize("keyword", ["dim", "axis"])
def test_concatenation_by_keyword(keyword: str) -> None:
    def forward(m, x):
        return m.d(torch.cat([torch.relu(m.a(x)), x], **{keyword: 1}))

    _, plan = checked(forward, d=nn.Conv2d(9, 4, 1))
    assert removed(plan) == {("a", 0), ("a", 3)}


def test_addition_by_keyword() -> None:
    def forward(m, x):
        return m.c(torch.add(torch.relu(m.a(x)), other=torch.relu(m.d(x))))

    model_d = nn.Conv2d(3, 6, 1)
    _, plan = checked(forward, d=model_d)
    assert not plan.removed  # every partner lives


def test_padding_module_before_a_convolution() -> None:
    def forward(m, x):
        return m.d(m.pad(torch.relu(m.a(x))))

    small, plan = checked(forward, pad=nn.ZeroPad2d(1), d=nn.Conv2d(6, 4, 3))
    # Channel 3 is the constant zero; channel 0 has a border, which is a map.
    assert removed(plan) == {("a", 3)}
    assert dict(small.named_modules())["d"].in_channels == 5


def test_a_bound_that_is_computed_is_no_constant() -> None:
    def forward(m, x):
        y = m.a(x)
        return m.b(torch.clamp(y, max=y.max()))

    _, plan = checked(forward)
    assert not plan.removed


def test_linear_on_tokens_is_left_alone_and_counted() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 2, stride=2)
            self.mix = nn.Linear(8, 10)
            self.fc = nn.Linear(10, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            return self.fc(F.relu(self.mix(x)).mean(1))

    model = settle(Tokens(), 2)
    kill(model.mix, [1])
    small, plan = compact(model, SHAPE)
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds
    counted = {layer.name: layer.macs for layer in count(model, SHAPE).layers}
    assert counted == {"patch": 96 * 16, "mix": 80 * 16, "fc": 40}
    masks = {name: weight != 0 for name, weight in prunable(model).items()}
    effective = effective_masks(trace(model, SHAPE), masks)
    assert torch.equal(effective["mix.weight"], masks["mix.weight"])


def test_a_shared_layer_is_effective_if_one_call_is() -> None:
    def forward(m, x):
        return m.c(m.s(torch.relu(m.a(x)))) + m.c(m.s(x.repeat(1, 2, 1, 1) * 0))

    model = settle(Written(forward, s=nn.Conv2d(6, 6, 1)), 3)
    masks = {
        name: weight != 0 for name, weight in prunable(model).items() if name != "b.weight"
    }
    effective = effective_masks(trace(model, SHAPE), masks)
    assert int(effective["s.weight"].sum()) == 36


def test_a_constant_behind_a_sigmoid_is_no_path() -> None:
    """sigma(0) = 0.5 is cut off by the border of a padded convolution; still no signal."""

    def forward(m, x):
        return m.b(torch.sigmoid(m.a(x)))

    model = settle(Written(forward), 4)
    kill(model.a, list(range(6)))
    masks = {
        name: weight != 0 for name, weight in prunable(model).items() if name != "c.weight"
    }
    effective = effective_masks(trace(model, SHAPE), masks)
    assert sum(int(mask.sum()) for mask in effective.values()) == 0


def test_several_outputs_are_all_compared() -> None:
    def forward(m, x):
        y = torch.relu(m.a(x))
        return {"deep": m.b(y), "side": (m.c(y),)}

    model = settle(Written(forward), 5)
    kill(model.a, [0, 3])
    small, plan = compact(model, SHAPE)
    images = torch.randn(2, *SHAPE)
    assert prove(model, small, plan, images).holds
    with torch.no_grad():
        small.get_submodule("c").bias[0] += 0.1
    assert not prove(model, small, plan, images).holds


def test_a_parametrized_layer_is_left_alone() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)))
    small, plan = compact(model, SHAPE)  # a parametrized convolution is no nn.Conv2d: opaque
    assert plan.is_empty
    assert prove(model, small, plan, torch.randn(2, *SHAPE)).holds


def test_batch_norm_over_tokens_is_not_folded() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(16, 16), nn.BatchNorm1d(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x.flatten(2)))

    model = settle(Tokens(), 6)
    folded = fold_batch_norm(trace(model, (16, 4, 4)))
    images = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(folded(images), model(images))


def test_folding_still_works_on_a_compacted_network() -> None:
    model = settle(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)), 7
    )
    kill(model[1], [2])
    small, _ = compact(model, SHAPE)
    folded = fold_batch_norm(small)
    assert not any(isinstance(m, nn.BatchNorm1d) for m in folded.modules())
    images = torch.randn(2, *SHAPE)
    torch.testing.assert_close(folded(images), model(images), rtol=1e-4, atol=1e-5)


def test_a_plan_that_is_not_obeyed_is_noticed() -> None:
    model = settle(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)), 8)
    kill(model[0], [0])
    small, plan = compact(model, SHAPE)
    before, after = count(model, SHAPE), count(small, SHAPE)
    assert predict(before, plan) == {"0": 15, "1": 20}
    demand_predicted(before, after, plan)
    with pytest.raises(
        PareError, match="layer '0' has 18 weights after compaction, planned were 15"
    ):
        demand_predicted(before, before, plan)


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(1, 4, 1)
            self.last = nn.Conv2d(10, 2, 1)

        def forward(self, image: Tensor, depth: Tensor) -> Tensor:
            return self.last(torch.cat([F.relu(self.a(image)), F.relu(self.b(depth))], 1))

    model = settle(Two(), 3)
    kill(model.a, [0, 3])
    kill(model.b, [1])
    small, plan = compact(model, ((3, 8, 8), (1, 8, 8)))
    assert removed(plan) == {("a", 0), ("a", 3), ("b", 1)}
    image, depth = torch.randn(2, 3, 9, 7), torch.randn(2, 1, 9, 7)
    torch.testing.assert_close(small(image, depth), model(image, depth))


@pytest.mark.parametrize(
    "view", [lambda y: y.expand_as(y), lambda y: F.dropout2d(y, 0.5, training=False)]
)
def test_a_view_under_another_name_that_is_changed_in_place(view) -> None:
    def forward(m, x):
        y = m.a(x)
        F.relu_(view(y))
        return m.b(y)

    _, plan = checked(forward)
    assert removed(plan) <= {("a", 0), ("a", 3)}


def test_what_is_written_into_another_tensor_is_refused() -> None:
    def forward(m, x):
        y, z = m.a(x), m.a2(x)
        torch.sin(y, out=z)
        return m.b(z)

    with pytest.raises(PareError, match="writes into `out`"):
        follow_mutations(fx.symbolic_trace(Written(forward, a2=nn.Conv2d(3, 6, 3))))


def test_code_that_counts_the_images_is_refused() -> None:
    def forward(m, x):
        y = torch.relu(m.a(x))
        return m.b(y * 2 if x.shape[0] > 2 else y)

    with pytest.raises(PareError, match="cannot be traced"):
        compact(settle(Written(forward), 1), SHAPE)


@pytest.mark.parametrize(
    "middle",
    [
        lambda m, y: m.pad(y)[:, 2:-2],
        lambda m, y: m.fold(m.fold(y).flatten(1, 2)).flatten(1, 2),
        lambda m, y: m.rows(y),
        lambda m, y: y ** y.abs().clamp(max=1),
        lambda m, y: torch.clamp(y, max=y),
        lambda m, y: m.shuffle(y.softmax(1)),
    ],
    ids=["pad", "unflatten twice", "layer norm of rows", "power", "bound", "shuffle"],
)
def test_unusual_calls_break_nothing(middle) -> None:
    def forward(m, x):
        return m.b(middle(m, torch.relu(m.a(x))))

    checked(
        forward,
        pad=nn.ZeroPad3d((0, 0, 0, 0, 2, 2)),
        fold=nn.Unflatten(1, (2, 3)),
        rows=nn.LayerNorm(8),
        shuffle=nn.ChannelShuffle(3),
    )


def test_a_buffer_beside_a_weight_that_becomes_a_module() -> None:
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6))
            self.register_buffer("gain", torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight) * self.gain

    def forward(m, x):
        return m.gained(torch.relu(m.a(x)).mean((2, 3)))

    _, plan = checked(forward, gained=Gained())
    assert removed(plan) == {("a", 0), ("a", 3)}


def test_pruning_that_is_still_a_hook_is_refused_with_the_remedy() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    with pytest.raises(PareError, match=r"torch\.nn\.utils\.prune\.remove"):
        compact(model, SHAPE)
