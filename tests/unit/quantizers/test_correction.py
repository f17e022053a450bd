"""Bias correction: the mean of every output is back, also on images it has not seen."""

from __future__ import annotations

import pytest
import torch
from quantized_nets import calibration, outlier, trained, unequal, validation
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.graph.kinds import layers
from pipeline.graph.trace import trace
from pipeline.quantizers._correction import correct_bias
from pipeline.quantizers._simulation import logits, observe, rounded_weight, simulate


def rounded(network: fx.GraphModule) -> fx.GraphModule:
    """Return a network whose weights alone are rounded, with one scale each."""
    ranges = observe(network, calibration(10))
    found = simulate(network, ranges, "per-tensor", set(), between=False)
    with torch.no_grad():
        for name in layers(found):
            weight = found.get_submodule(name).weight
            weight.copy_(rounded_weight(weight, "per-tensor"))
    return found


def mean_error(exact: fx.GraphModule, found: fx.GraphModule, images: Tensor) -> float:
    """Return the root mean square over the classes of the mean difference of the logits."""
    difference = logits(rounded(found), images) - logits(exact, images)
    return float(difference.mean(0).square().mean().sqrt())


@pytest.mark.parametrize(
    "network", [unequal(trained(), 3), outlier(trained())], ids=["u", "o"]
)
def test_the_mean_error_falls_on_images_not_seen(network: fx.GraphModule) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done = correct_bias(network, calibration(), "per-tensor")
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    images, _ = validation()
    plain, corrected = (mean_error(network, one, images) for one in (network, done.network))
    assert corrected < 0.35 * plain
    # On the images it was estimated on, nothing is left of it.
    assert mean_error(network, done.network, calibration()) < 0.01 * plain


def test_a_correction_of_the_wrong_sign_does_not_pass() -> None:
    network = unequal(trained(), 3)
    done = correct_bias(network, calibration(), "per-tensor")
    with torch.no_grad():
        for name in layers(network):
            bias, moved = (n.get_submodule(name).bias for n in (network, done.network))
            moved.copy_(2 * bias - moved)
    images, _ = validation()
    plain, wrong = (mean_error(network, one, images) for one in (network, done.network))
    assert not wrong < 0.35 * plain


def test_weights_stay_and_every_shift_is_recorded() -> None:
    network = unequal(trained(), 3)
    done = correct_bias(network, calibration(), "per-tensor")
    assert [shift.layer for shift in done.layers] == ["0", "3", "6", "11"]
    for shift in done.layers:
        old, new = (n.get_submodule(shift.layer) for n in (network, done.network))
        assert torch.equal(old.weight, new.weight)
        moved = (new.bias - old.bias).detach().abs()
        assert shift.channels == moved.numel()
        assert shift.largest == pytest.approx(float(moved.max()), rel=1e-4, abs=1e-6)
        assert shift.mean == pytest.approx(float(moved.mean()), rel=1e-4, abs=1e-6)
        assert shift.relative > 0


class Odd(nn.Module):
    """A layer without bias, one called twice, sizes as numbers, a slice and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.bare, self.twice = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.twice(torch.relu(self.twice(self.bare(x))))
        x = x[:, :, : x.shape[2] // 2].mean((2, 3)).reshape(x.shape[0], -1)
        return self.fc(x), x


def test_bare_and_repeated_layers() -> None:
    network = trace(Odd().eval(), (3, 8, 8))
    done = correct_bias(network, torch.randn(16, 3, 8, 8), "per-tensor")
    assert [shift.layer for shift in done.layers] == ["bare", "fc"]
    assert network.get_submodule("bare").bias is None
    assert done.network.get_submodule("bare").bias.shape == (4,)
    repeated = (n.get_submodule("twice").bias for n in (network, done.network))
    assert torch.equal(*repeated)


def test_refusals() -> None:
    network = trained()
    with pytest.raises(PareError, match="there are no images to estimate"):
        correct_bias(network, calibration()[:0], "per-tensor")
    with pytest.raises(PareError, match="output of layer '0' is not finite"):
        correct_bias(network, calibration(4) * float("nan"), "per-tensor")
