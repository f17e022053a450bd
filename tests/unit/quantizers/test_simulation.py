"""Int8 simulated in PyTorch: close to a real file, and each rule of it on its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from quantized_nets import (
    calibration,
    data,
    file_logits,
    outlier,
    separable,
    trained,
    unequal,
    validation,
)
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.core.target import Granularity, Method
from pipeline.graph.equalise import equalise
from pipeline.graph.trace import trace
from pipeline.quantizers._simulation import (
    Range,
    Rounding,
    affine,
    logits,
    observe,
    rounded_weight,
    simulate,
    stored_values,
)


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def names(network: fx.GraphModule, **how: object) -> list[str]:
    return [node.name for node in stored_values(network, **how)]  # type: ignore[arg-type]


@pytest.mark.parametrize("granularity", ["per-channel", "per-tensor"])
def test_it_errs_as_the_file_of_onnxruntime_does(
    granularity: Granularity, tmp_path: Path
) -> None:
    network = outlier(trained())
    images = data().normalise(data().test.images)
    exact = logits(network, images)
    real = file_logits(network, granularity, images, tmp_path)
    ranges = observe(network, calibration())
    found = logits(simulate(network, ranges, granularity), images)
    assert rms(found - exact) == pytest.approx(rms(real - exact), rel=0.1)
    assert rms(found - real) < 0.5 * rms(real - exact)
    assert float((found.argmax(1) == real.argmax(1)).double().mean()) >= 0.98
    # The twin: the other granularity does not pass for this one.
    other: Granularity = "per-tensor" if granularity == "per-channel" else "per-channel"
    wrong = logits(simulate(network, ranges, other), images)
    assert rms(wrong - exact) != pytest.approx(rms(real - exact), rel=0.1)


class Branches(nn.Module):
    """A fused ReLU, a sum, a concatenation, a pool and an activation that is not fused."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.act, self.fc = nn.Hardswish(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        y = F.max_pool2d(self.act(self.two(x)) + x, 2)
        y = torch.cat([y, y], 1).mean((2, 3)).view(x.shape[0], -1)
        return self.fc(y)


def test_which_values_are_stored() -> None:
    network = trace(Branches().eval(), (1, 8, 8))
    assert names(network) == ["x", "relu", "two", "act", "add", "cat", "mean", "fc"]
    assert names(network, layers={"two"}) == ["relu", "two", "act", "add", "cat", "mean"]
    assert names(network, layers={"two"}, between=False) == ["relu", "two"]
    assert names(network, layers={"fc"}, between=False) == ["mean", "fc"]
    assert names(network, layers=set(), between=False) == []


def test_nothing_chosen_changes_nothing_and_the_argument_stays() -> None:
    network = trained()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = calibration(20)
    ranges = observe(network, images)
    same = simulate(network, ranges, "per-channel", set(), between=False)
    assert torch.equal(logits(same, images), logits(network, images))
    whole = simulate(network, ranges, "per-channel")
    assert not torch.equal(logits(whole, images), logits(network, images))
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert "int8" not in network.code


def test_weights_are_symmetric_and_zeros_stay() -> None:
    weight = torch.randn(6, 4, 3, 3)
    weight[0] *= 1000
    weight[1], weight[2, 0] = 0, 0
    channel, tensor = (
        rounded_weight(weight, "per-channel"),
        rounded_weight(weight, "per-tensor"),
    )
    for rounded in (channel, tensor):
        assert torch.equal(rounded[weight == 0], torch.zeros(int((weight == 0).sum())))
        assert rms(rounded[0] - weight[0]) < 0.005 * rms(weight[0])
        assert torch.equal(rounded_weight(-weight, "per-tensor"), -tensor)
    steps = channel[3] / (weight[3].abs().max() / 127)
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert rms(channel[3] - weight[3]) < 0.01 * rms(weight[3])
    assert not tensor[3].any()  # with one scale for all, little weights are rounded away
    again = rounded_weight(channel, "per-channel")
    torch.testing.assert_close(again, channel, rtol=1e-6, atol=0)


def test_gradients_pass_straight_through() -> None:
    weight = torch.randn(3, 5, requires_grad=True)
    rounded_weight(weight, "per-channel").sum().backward()
    assert torch.equal(weight.grad, torch.ones(3, 5))
    value = torch.tensor([-5.0, 0.5, 5.0], requires_grad=True)
    Rounding(Range(minimum=-1, maximum=1))(value).sum().backward()
    assert value.grad.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("low", "high", "zero"),
    [(0.0, 6.0, -128), (-6.0, 0.0, 127), (-1.0, 1.0, 0), (2.0, 6.0, -128)],
)
def test_zero_is_exact_in_every_range(low: float, high: float, zero: int) -> None:
    scale, point = affine(torch.tensor(low), torch.tensor(high))
    assert int(point) == pytest.approx(zero, abs=1)
    rounding = Rounding(Range(minimum=low, maximum=high))
    assert float(rounding(torch.zeros(1))) == 0
    top = torch.tensor([high, low])
    torch.testing.assert_close(rounding(top), top, rtol=0, atol=float(scale))


def test_a_value_that_is_always_zero_and_whole_numbers_pass() -> None:
    rounding = Rounding(Range(minimum=0, maximum=0))
    assert float(rounding(torch.zeros(1))) == 0
    numbers = torch.tensor([300, -7])
    assert rounding(numbers) is numbers


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_methods_cut_off_what_is_rare(method: Method) -> None:
    """One value of a million lies far outside; only min-max pays for it."""
    network = trace(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()).eval(), (1, 32, 32))
    with torch.no_grad():
        network.get_submodule("0").weight.fill_(1)
        network.get_submodule("0").bias.fill_(0)
    images = torch.randn(200, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    images[3, 0, 5, 5] = 60.0
    plain, found = observe(network, images).values, observe(network, images, method).values
    image, result = names(network)
    assert plain[image].maximum == 60.0
    assert plain.keys() == found.keys() == {image, result}
    for name in plain:
        # The least squared error still lets one far value have its say.
        assert 2.0 < found[name].maximum < (59.0 if method == "mse" else 31.0)
        assert found[name].minimum >= plain[name].minimum


@pytest.mark.parametrize("method", ["min-max", "percentile", "mse", "entropy"])
def test_methods_keep_an_even_distribution_whole(method: Method) -> None:
    network = trace(nn.Sequential(nn.Conv2d(1, 1, 1)).eval(), (1, 32, 32))
    images = torch.rand(100, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 4 - 2
    span = observe(network, images, method).values[names(network)[0]]
    assert span.minimum == pytest.approx(-2, abs=0.1)
    assert span.maximum == pytest.approx(2, abs=0.1)


def test_one_of_several_results_is_a_value_of_its_own() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.attention(x, x, x, need_weights=False)[0])

    network = trace(Attention().eval(), (5, 8))
    assert names(network) == ["x", "getitem", "out"]
    images = torch.randn(3, 5, 8)
    found = simulate(network, observe(network, images), "per-channel")
    assert float((found(images) - network(images)).detach().abs().max()) > 0


def test_equalisation_brings_back_what_one_scale_a_weight_lost() -> None:
    network = unequal(trained())
    images, labels = validation()

    def accuracy(one: fx.GraphModule) -> float:
        view = simulate(one, observe(one, calibration()), "per-tensor")
        return float((logits(view, images).argmax(1) == labels).double().mean())

    assert accuracy(network) < 0.5
    assert accuracy(equalise(network).network) == pytest.approx(accuracy(trained()), abs=0.02)


def test_refusals() -> None:
    network = trace(separable().eval(), (1, 8, 8))
    with pytest.raises(PareError, match="there are no images"):
        observe(network, calibration()[:0])
    spoiled = calibration(4).clone()
    spoiled[0, 0, 0, 0] = float("nan")
    with pytest.raises(PareError, match="value 'input_1' of the network is not finite"):
        observe(network, spoiled)
    ranges = observe(network, calibration(4))
    with pytest.raises(
        PareError, match=r"no layer 'stem' to quantize. Its layers: 0, 11, 3, 6"
    ):
        simulate(network, ranges, "per-channel", {"stem"})
    with pytest.raises(
        PareError, match=r"value 'input_1' .* has no range. Observe the same network"
    ):
        simulate(network, ranges.model_copy(update={"values": {}}), "per-channel")
