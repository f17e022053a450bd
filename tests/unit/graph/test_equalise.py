"""Cross-layer equalisation: same outputs to the last bit, like ranges, honest refusals."""

from __future__ import annotations

import pytest
import torch
from tiny import prune_rows, settle
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.graph.equalise import (
    BOUND,
    Equalised,
    apply_in_place,
    demand,
    equalise,
    prove,
    spread,
)
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.surgery import compact
from pipeline.graph.trace import trace
from pipeline.models import build

SHAPE = (3, 16, 16)


def folded(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> fx.GraphModule:
    return fold_batch_norm(trace(settle(model, 0), shape))


def images(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(3))


def checked(model: nn.Module, shape: tuple[int, ...] = SHAPE) -> Equalised:
    """Equalise, and hold that no output changed at all and the argument was not touched."""
    network = folded(model, shape)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done = equalise(network)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    proof = prove(network, done.network, images(shape))
    demand(proof)
    assert {c.dtype for c in proof.comparisons} == {"float32", "float64"}
    assert [c.difference for c in proof.comparisons] == [0.0] * len(proof.comparisons)
    return done


def chain(*between: nn.Module) -> nn.Module:
    """Two convolutions with something in between, the first of unequal channels."""
    first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
    with torch.no_grad():
        first.weight *= torch.tensor([100, 10, 1, 0.1, 0.01, 1.0]).view(-1, 1, 1, 1)
    return nn.Sequential(first, *between, second)


def joined(done: Equalised) -> list[tuple[str, str]]:
    return [(pair.first, pair.second) for pair in done.pairs]


@pytest.mark.parametrize(
    "between",
    [
        [nn.ReLU()],
        [nn.LeakyReLU(0.1)],
        [nn.PReLU(6)],
        [nn.Identity(), nn.Dropout(0.5)],
        [nn.ReLU(), nn.MaxPool2d(2, padding=1)],
        [nn.MaxPool2d(3, 2, 1)],
        [nn.AvgPool2d(2, padding=1)],
        [nn.AdaptiveAvgPool2d(3)],
        [nn.ZeroPad2d(1), nn.ReLU()],
        [],
    ],
    ids=lambda modules: "-".join(type(m).__name__ for m in modules) or "nothing",
)
def test_a_homogeneous_way_between_two_layers(between: list[nn.Module]) -> None:
    done = checked(chain(*between))
    (pair,) = done.pairs
    assert pair.channels == 6
    assert pair.before > 1000
    assert pair.after < pair.before / 20
    assert pair.scaled >= 4


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (nn.ReLU6(), "relu6"),
        (nn.Hardtanh(), "hardtanh"),
        (nn.Hardswish(), "hardswish"),
        (nn.SiLU(), "silu"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.ConstantPad2d(1, 0.5), "constant_pad2d"),
        (nn.LocalResponseNorm(2), "not known"),
    ],
)
def test_what_is_not_homogeneous_ends_the_way_and_says_so(
    between: nn.Module, why: str
) -> None:
    done = checked(chain(between))
    assert done.pairs == []
    assert why in done.unpaired[0].why


class Functional(nn.Module):
    """Functions and methods instead of modules, a flatten of several places a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, groups=2)
        self.three, self.four = nn.Linear(8 * 36, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(torch.nn.functional.pad(self.one(x), (1, 1, 1, 1)))
        x = torch.nn.functional.max_pool2d(torch.nn.functional.leaky_relu(self.two(x)), 2)
        x = nn.functional.pad(x, (0, -1, 0, -1)).reshape(x.shape[0], -1)
        return self.four(nn.functional.relu(self.three(x)))


def test_functions_groups_and_flatten() -> None:
    done = checked(Functional())
    assert joined(done) == [("one", "two"), ("two", "three"), ("three", "four")]


def test_a_mean_over_places_is_passed_and_one_over_channels_is_not() -> None:
    class Mean(nn.Module):
        def __init__(self, axes: tuple[int, ...]) -> None:
            super().__init__()
            self.axes = axes
            self.conv = nn.Conv2d(3, 16, 1)
            self.fc = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).mean(self.axes))

    assert joined(checked(Mean((2, 3)))) == [("conv", "fc")]
    assert joined(checked(Mean((-1, -2)))) == [("conv", "fc")]
    assert "mean" in checked(Mean((1, 2))).unpaired[0].why


def test_depthwise_triples_come_to_one_range() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    with torch.no_grad():
        model[2].weight *= 2.0 ** torch.arange(-8.0, 8.0, 2.0).view(-1, 1, 1, 1)
    done = checked(model)
    assert joined(done) == [("0", "2"), ("2", "4")]
    first, second, third = (
        done.network.get_submodule(name).weight.detach().abs() for name in ("0", "2", "4")
    )
    made = [one.flatten(1).amax(1) for one in (first, second)]
    read = third.flatten(2).amax((0, 2))
    for one in (made[1], read):
        # Neighbours differ by less than the half step of the exponents on either side.
        assert float((made[0] / one).log2().abs().max()) <= 2.0


@pytest.mark.parametrize("name", ["resnet8", "conv4", "mobilenet_v1", "vgg16"])
def test_named_networks(name: str) -> None:
    done = checked(build(name, {"width": 4}, classes=5, channels=3, size=16, seed=0))
    expected = {"resnet8": 3, "conv4": 6, "mobilenet_v1": 27, "vgg16": 13}
    assert len(done.pairs) == expected[name]
    # What one pair gains its neighbour may lose: the worst and the sum are better.
    before, after = [p.before for p in done.pairs], [p.after for p in done.pairs]
    assert max(after) <= max(before)
    assert sum(after) <= sum(before)


def test_a_pruned_and_compacted_network() -> None:
    model = build("mobilenet_v1", {"width": 4}, classes=5, channels=3, size=16, seed=0)
    small, _ = compact(prune_rows(settle(model, 0), 1, 0.3), SHAPE)
    network = fold_batch_norm(small)
    done = equalise(network)
    assert len(done.pairs) == 27
    assert [c.difference for c in prove(network, done.network, images()).comparisons] == [
        0.0
    ] * 6


def test_equalising_twice_is_equalising_once() -> None:
    done = checked(chain(nn.ReLU()))
    again = equalise(done.network)
    assert [pair.scaled for pair in again.pairs] == [0]
    state = done.network.state_dict()
    assert all(torch.equal(t, state[n]) for n, t in again.network.state_dict().items())


def test_dead_channels_are_left_alone_and_scales_are_bounded() -> None:
    model = chain(nn.ReLU())
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].weight[1] *= 1e20
    done = checked(model)
    kept = done.network.get_submodule("0").weight
    assert not kept[0].any()
    assert float((model[0].weight[1] / kept[1]).detach().max()) == 2.0**BOUND


def test_a_layer_that_is_read_twice_shared_or_joined_is_no_first() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fork, self.same = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
            self.left, self.out = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.same(self.same(self.fork(x)))
            x = x + self.left(x)
            return self.out(x)

    done = checked(Odd())
    assert done.pairs == []
    why = {one.layer: one.why for one in done.unpaired}
    assert why.keys() == {"fork", "left", "out"}
    assert "called twice" in why["fork"]
    assert "joins" in why["left"]
    assert "output" in why["out"]


def test_a_scale_on_one_side_only_is_seen() -> None:
    network = folded(chain(nn.ReLU()))
    spoiled = equalise(network).network
    with torch.no_grad():
        spoiled.get_submodule("2").weight[:, 5] *= 2  # the least step a scale can take
    proof = prove(network, spoiled, images())
    assert not proof.holds
    with pytest.raises(PareError, match=r"equalised network differs .* Turn equalisation off"):
        demand(proof)


def test_without_shapes_it_is_refused() -> None:
    with pytest.raises(PareError, match=r"no known shape. Trace the network with"):
        equalise(fx.symbolic_trace(chain(nn.ReLU())))


def test_scales_that_are_applied_can_be_taken_back() -> None:
    network = folded(chain(nn.ReLU()))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step = torch.tensor([1.0, -2, 3, 0, -5, 12])
    with torch.no_grad():
        apply_in_place(network, "0", "2", step)
        assert not torch.equal(network.state_dict()["0.weight"], before["0.weight"])
        apply_in_place(network, "0", "2", -step)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_spread_of_nothing_is_one() -> None:
    assert spread(torch.zeros(3)) == 1.0


class ReadsItsWeight(nn.Module):
    """Its second layer's weight is used once more, by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.second(y) + self.second.weight.sum()


def test_a_layer_whose_weight_is_read_by_itself_is_left_alone() -> None:
    torch.manual_seed(0)
    network = fold_batch_norm(trace(ReadsItsWeight().eval(), (3, 9, 9)))
    assert not equalise(network).pairs
