"""Quantization-aware training: int8 accuracy comes back, zeros stay, plain weights return."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from quantized_nets import (
    calibration,
    data,
    file_logits,
    one_thread,
    outlier,
    separable,
    trained,
    validation,
)
from small_data import options, same_weights
from tiny import prune_weights
from torch import fx, nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.trace import trace
from pipeline.methods import create
from pipeline.quantizers._simulation import Range, observe, simulate
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train
from pipeline.training.quantization_aware import (
    FollowedRange,
    Tuned,
    _options,
    train_quantized,
)

RATE = 0.1  # of the rate that the small network was trained with


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def network() -> fx.GraphModule:
    return outlier(trained(), 120)


def tuned(given: fx.GraphModule | None = None, **how: object) -> Tuned:
    fixed = {"epochs": 6, "granularity": "per-tensor", "seed": 0, "lr_factor": RATE, **how}
    return train_quantized(given or network(), data(), calibration(), options(lr=0.1), **fixed)  # type: ignore[arg-type]


@cache
def once() -> Tuned:
    return tuned()


def int8_accuracy(one: fx.GraphModule) -> float:
    view = simulate(one, observe(one, calibration()), "per-tensor")
    return accuracy(view, data().validation, data())


def test_int8_accuracy_after_exceeds_that_before() -> None:
    found, exact = once(), accuracy(network(), data().validation, data())
    assert found.before == int8_accuracy(network())
    assert found.before < exact - 0.05
    assert found.after > found.before + 0.05
    # What was selected is what a file of the plain weights is in int8.
    assert int8_accuracy(found.network) == found.after
    assert [epoch.epoch for epoch in found.history] == [1, 2, 3, 4, 5, 6]
    assert found.history[found.best_epoch - 1].accuracy == found.after
    assert max(epoch.accuracy for epoch in found.history) == found.after
    test = simulate(found.network, observe(found.network, calibration()), "per-tensor")
    assert accuracy(test, data().test, data()) > found.before + 0.03


def test_the_file_of_onnxruntime_is_as_good_as_was_said(tmp_path: Path) -> None:
    images, labels = validation()
    right = []
    for number, one in enumerate((network(), once().network)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = file_logits(one, "per-tensor", images, folder)
        right.append(float((found.argmax(1) == labels).double().mean()))
    assert right == pytest.approx([once().before, once().after], abs=0.02)


def test_the_same_training_without_rounding_does_not_do_it() -> None:
    """The twin: it is the rounding in the training that helps, not the training."""
    method = create(Choice(name="dense"), Budget())
    own = options(lr=0.1 * RATE, epochs=6, recalibration_batches=0)
    plain = train(network(), method, data(), own, seed=0)
    assert isinstance(plain.model, fx.GraphModule)
    assert not int8_accuracy(plain.model) > once().after - 0.05


def test_the_network_is_plain_and_its_weights_are_on_the_grid() -> None:
    given, found = network(), once()
    assert found.network.code == given.code
    assert found.network.state_dict().keys() == given.state_dict().keys()
    assert not same_weights(found.network.state_dict(), given.state_dict())
    for module in found.network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight.detach()
            steps = weight / (weight.abs().max() / 127)
            torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)


def test_the_argument_is_untouched_and_the_seed_decides() -> None:
    given = network()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    one, same = (tuned(given, epochs=2) for _ in range(2))
    other = tuned(given, epochs=2, seed=1)
    assert same_weights(before, given.state_dict())
    assert one.best_epoch == same.best_epoch > 0
    assert [e.task_loss for e in one.history] == [e.task_loss for e in same.history]
    assert same_weights(one.network.state_dict(), same.network.state_dict())
    assert not same_weights(one.network.state_dict(), other.network.state_dict())


def test_zeros_are_kept() -> None:
    given = prune_weights(trained(), 3, 0.3)
    assert isinstance(given, fx.GraphModule)
    found = tuned(given, epochs=2)
    assert found.best_epoch > 0
    moved = 0
    for name, weight in given.state_dict().items():
        if name.endswith("weight"):
            now = found.network.state_dict()[name]
            assert not now[weight == 0].any()
            moved += int((now != weight).sum())
    assert moved > 0


def test_the_mask_is_what_keeps_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twin: without it, zeros become weights."""
    from pipeline.training import quantization_aware

    def unmasked(self: nn.Module, weight: torch.Tensor) -> torch.Tensor:
        return quantization_aware.rounded_weight(weight, "per-tensor")

    monkeypatch.setattr(quantization_aware.RoundedWeight, "forward", unmasked)
    given = prune_weights(trained(), 3, 0.3)
    assert isinstance(given, fx.GraphModule)
    found = tuned(given, epochs=2)
    assert found.best_epoch > 0
    zeros = given.get_submodule("11").weight == 0
    assert found.network.get_submodule("11").weight[zeros].any()


def test_no_epoch_better_than_none_gives_the_network_back() -> None:
    given = trained()
    found = tuned(given, epochs=1, lr_factor=3.0)  # far too large a rate
    assert found.history[0].accuracy < found.before
    assert found.best_epoch == 0
    assert found.after == found.before
    assert same_weights(found.network.state_dict(), given.state_dict())


def test_ranges_follow_while_training_until_they_are_frozen() -> None:
    value = torch.tensor([-1.0, 9.0])
    module = FollowedRange(Range(minimum=0, maximum=1))
    module.eval()(value)
    assert (float(module.minimum), float(module.maximum)) == (0, 1)
    module.train()(value)
    assert float(module.minimum) == pytest.approx(-0.01)
    assert float(module.maximum) == pytest.approx(1.08)
    module.freeze()
    module(value)
    assert float(module.maximum) == pytest.approx(1.08)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    class Stop(Exception):
        """Stands for a kill right after an epoch."""

    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise Stop

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        tuned(epochs=3, checkpoint=path, progress=stop)
    resumed, unbroken = tuned(epochs=3, checkpoint=path), tuned(epochs=3)
    assert same_weights(resumed.network.state_dict(), unbroken.network.state_dict())
    assert resumed.after == unbroken.after


def test_refusals() -> None:
    with pytest.raises(PareError, match="qat_epochs = 0: at least one epoch"):
        tuned(epochs=0)
    unfolded = trace(separable().eval(), (1, 8, 8))
    with pytest.raises(PareError, match=r"batch norm '1' is not folded .* fold_batch_norm"):
        tuned(unfolded)
    with pytest.raises(PareError, match="calibration: there are no images"):
        train_quantized(
            trained(), data(), calibration()[:0], options(), epochs=1,
            granularity="per-tensor", seed=0,
        )  # fmt: skip


def test_it_runs_in_one_process_however_many_trained_the_network():
    own = _options(options(devices=2, strategy="ddp"), 3, 0.1)
    assert (own.devices, own.strategy, own.epochs) == (1, "auto", 3)
