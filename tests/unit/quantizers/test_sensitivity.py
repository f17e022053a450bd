"""Sensitivity of layers: the one that was made bad is found, and may stay in float."""

from __future__ import annotations

import pytest
import torch
from quantized_nets import calibration, outlier, trained, validation
from torch import Tensor, fx, nn

from pipeline.core.errors import PareError
from pipeline.graph.counting import count
from pipeline.graph.trace import trace
from pipeline.quantizers._sensitivity import (
    NO_ERROR_DB,
    LayerSensitivity,
    sensitivity,
)
from pipeline.quantizers._simulation import logits, observe, simulate


def ranked(network: fx.GraphModule, **how: object) -> list[LayerSensitivity]:
    images, labels = validation()
    ranges = observe(network, calibration())
    given = {"granularity": "per-tensor", "labels": labels, **how}
    return sensitivity(network, ranges, images, **given)  # type: ignore[arg-type]


def test_the_bad_layer_is_the_worst() -> None:
    found = ranked(outlier(trained(), 150))
    assert {one.layer for one in found} == {"0", "3", "6", "11"}
    worst, *others = found
    assert worst.layer == "3"
    assert worst.agreement < 0.9 < min(one.agreement for one in others)
    assert worst.sqnr_db < 15 < min(one.sqnr_db for one in others)
    assert worst.accuracy_drop is not None
    assert worst.accuracy_drop > 0.1
    # The twin: with a scale for each channel, it is a layer like the others.
    fine = ranked(outlier(trained(), 150), granularity="per-channel")
    assert min(one.agreement for one in fine) > 0.9


def test_each_figure_is_that_of_the_layer_simulated_alone() -> None:
    """What is computed once for all layers gives the same as computing each anew."""
    network = outlier(trained())
    images, labels = validation()
    ranges = observe(network, calibration())
    exact = logits(network, images)
    for one in ranked(network):
        alone = simulate(network, ranges, "per-tensor", {one.layer}, between=False)
        found = logits(alone, images)
        assert one.agreement == float((found.argmax(1) == exact.argmax(1)).double().mean())
        noise = float((found - exact).double().square().sum())
        signal = float(exact.double().square().sum())
        assert one.sqnr_db == pytest.approx(10 * torch.tensor(signal / noise).log10().item())
        right = [float((o.argmax(1) == labels).double().mean()) for o in (exact, found)]
        assert one.accuracy_drop == pytest.approx(right[0] - right[1])


def test_shares_of_the_work() -> None:
    network = trained()
    counted = count(network, (1, 8, 8))
    found = {one.layer: one.macs_share for one in ranked(network)}
    assert sum(found.values()) == pytest.approx(1)
    for layer in counted.layers:
        assert found[layer.name] == layer.macs / counted.macs


def test_without_labels_and_without_error() -> None:
    class Zeros(nn.Module):
        """Three layers that quantize without any error: ties stay in the graph's order."""

        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.middle = (nn.Conv2d(1, 1, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.middle(self.first(x))).mean((2, 3))

    network = trace(Zeros().eval(), (1, 4, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    images = torch.randn(5, 1, 4, 4)
    found = sensitivity(network, observe(network, images), images, None, "per-channel")
    assert [one.layer for one in found] == ["first", "middle", "last"]
    assert {(one.accuracy_drop, one.agreement, one.sqnr_db) for one in found} == {
        (None, 1.0, NO_ERROR_DB)
    }


def test_the_same_every_time_and_the_argument_stays() -> None:
    network = outlier(trained())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert ranked(network) == ranked(network)
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_refusals() -> None:
    network = trained()
    images, labels = validation()
    ranges = observe(network, calibration())
    with pytest.raises(PareError, match="0 images and no labels"):
        sensitivity(network, ranges, images[:0], None, "per-tensor")
    with pytest.raises(PareError, match="At least one image is needed, and a label for each"):
        sensitivity(network, ranges, images, labels[1:], "per-tensor")
