"""Supermask: coins with learnt probabilities, rescaling, and the mean of drawn networks."""

from __future__ import annotations

import json
import statistics

import pytest
import torch
from fast_run import run_fast
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net, digits, options, same_weights
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable_count
from pipeline.methods import Phase, apparent, create, plain
from pipeline.methods._untrained import logits
from pipeline.methods.supermask import Coins, Supermask
from pipeline.models import build
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train

PHASE = Phase(name="train", epochs=1)


def method(budget: float = 1.0, **own: object) -> Supermask:
    return create(Choice(name="supermask", **own), Budget(weights=budget))


@given(st.floats(-6, 6))
def test_coins_fall_as_often_as_the_logit_says(value: float):
    coins, count = Coins(torch.zeros(20000), rescale=False).train(), 20000
    with torch.no_grad():
        coins.m_hat.fill_(value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        frequency = float(coins.mask().detach().mean())
    probability = float(torch.tensor(value).sigmoid())
    spread = (probability * (1 - probability) / count) ** 0.5
    assert abs(frequency - probability) < 5 * spread + 1 / count


def test_the_twin_another_probability_is_noticed():
    torch.manual_seed(0)
    coins = Coins(torch.zeros(20000), rescale=False).train()
    with torch.no_grad():
        coins.m_hat.fill_(0.1)
    assert abs(float(coins.mask().detach().mean()) - 0.5) > 5 * 0.5 / 20000**0.5


@given(st.floats(-5, 5), st.booleans())
def test_the_gradient_is_that_of_the_probability(value: float, rescale: bool):
    weight = torch.randn(50, dtype=torch.float64)
    coins = Coins(weight, rescale=rescale).train()
    with torch.no_grad():
        coins.m_hat.fill_(value)
    masked = coins(weight)
    slope = torch.randn(50, dtype=torch.float64)
    (masked * slope).sum().backward()
    ones = int((masked != 0).sum())
    factor = 50 / max(ones, 1) if rescale else 1.0
    p = coins.m_hat.detach().sigmoid()
    torch.testing.assert_close(coins.m_hat.grad, slope * weight * factor * p * (1 - p))


@pytest.mark.parametrize("ones", [0, 1, 3, 10])
def test_the_rescaling_is_the_number_of_weights_over_the_ones(ones: int):
    weight = torch.arange(1.0, 11.0)
    coins = Coins(weight, rescale=True).eval()
    with torch.no_grad():
        coins.m_hat.copy_(torch.where(torch.arange(10) < ones, 1.0, -1.0))
    mask = (torch.arange(10) < ones).float()
    torch.testing.assert_close(coins(weight), weight * mask * (10 / max(ones, 1)))
    assert torch.equal(Coins(weight, rescale=False).eval()(weight), weight * 0)


def test_weights_are_gaussian_glorot_and_biases_zero_unless_given():
    model = method().attach(conv_net(width=64), PHASE)
    latent = model[5].parametrizations.weight.original
    assert float(latent.std()) == pytest.approx((2 / (256 + 10)) ** 0.5, rel=0.06)
    assert float((latent.abs() > 2 * latent.std()).double().mean()) == pytest.approx(
        0.0455, abs=0.015
    )  # a normal distribution, not a uniform one, which has nothing there
    assert not model[0].bias.any()
    given_weights = method(redraw=False).attach(conv_net(width=64), PHASE)
    assert torch.equal(
        given_weights[5].parametrizations.weight.original, conv_net(width=64)[5].weight
    )
    assert given_weights[0].bias.any()


def test_signed_constants_have_one_magnitude_a_layer():
    model = method(signed_constant=True).attach(conv_net(), PHASE)
    sizes = [model[n].parametrizations.weight.original.abs().unique().tolist() for n in (0, 5)]
    assert [len(size) for size in sizes] == [1, 1]
    assert sizes[0] != sizes[1]


def test_evaluation_has_one_answer_the_weights_more_likely_kept_than_not():
    own = method(rescale=False)
    model = own.attach(conv_net(), PHASE)
    with torch.no_grad():
        for _, m_hat in logits(model):
            m_hat.normal_()
    masks = own.masks(model)
    state = torch.get_rng_state()
    bare = apparent(plain(model.eval()))
    assert torch.equal(torch.get_rng_state(), state)
    for name, m_hat in logits(model):
        assert torch.equal(masks[name], m_hat.sigmoid() > 0.5)
        assert torch.equal(bare[name] != 0, masks[name])
    chances = torch.cat([m.detach().sigmoid().flatten() for _, m in logits(model)])
    assert own.cost(model) == pytest.approx(float(chances.mean()))


def test_a_weight_that_two_layers_share_has_one_coin():
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight

    own = method()
    model = own.attach(Twins(), PHASE)
    assert [name for name, _ in logits(model)] == ["one.weight"]
    (group,) = own.parameter_groups(model, 0.1)
    assert len(group["params"]) == 1
    assert own.masks(model).keys() == {"one.weight"}


def test_the_logits_alone_are_trained_fast_and_without_decay():
    own = method()
    model = own.attach(conv_net(), PHASE)
    (group,) = own.parameter_groups(model, lr=0.1)
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(100), 0.0)
    assert [id(p) for p in group["params"]] == [
        id(p) for p in model.parameters() if p.requires_grad
    ]
    weights = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([group], lr=0.1, momentum=0.9, weight_decay=0.5)
    for _ in range(3):
        model(torch.randn(8, 1, 8, 8)).square().sum().backward()
        optimizer.step()
    assert all(bool(m_hat.any()) for _, m_hat in logits(model))
    assert all(torch.equal(model.get_parameter(n), w) for n, w in weights.items())


class TestFigures:
    def test_they_are_mean_and_spread_over_drawn_networks(self):
        own = method(samples=6)
        model = own.attach(conv_net(), PHASE).eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        seen: list[tuple[float, nn.Module]] = []

        def noted(net: nn.Module) -> float:
            assert not net.training
            seen.append((float((net[5].weight != 0).double().mean()), net))
            return seen[-1][0]

        state = torch.get_rng_state()
        figures = own.figures(model, noted)
        assert torch.equal(torch.get_rng_state(), state)
        assert same_weights(model.state_dict(), before)
        assert not model.training
        values = [value for value, _ in seen]
        assert len(set(values)) > 1  # six networks, not one six times
        assert figures == {
            "samples": 6.0,
            "sampled_accuracy": pytest.approx(statistics.fmean(values)),
            "sampled_accuracy_spread": pytest.approx(statistics.stdev(values)),
        }
        assert own.figures(model, noted) == figures

    @pytest.mark.parametrize(("samples", "keys"), [(0, 0), (1, 3)])
    def test_one_has_no_spread_and_none_no_figures(self, samples: int, keys: int):
        own = method(samples=samples)
        figures = own.figures(own.attach(conv_net(), PHASE), lambda net: 0.5)
        assert len(figures) == keys
        assert figures.get("sampled_accuracy_spread", 0.0) == 0.0

    def test_the_train_stage_writes_them_down(self, tmp_path):
        own = ("method.name=supermask", "train.epochs=1")
        run = run_fast(tmp_path, *own, until="train")
        figures = run.artifacts["train"].metrics["method_figures"]
        assert figures["samples"] == 10
        assert 0 < figures["sampled_accuracy"] < 1
        json.dumps(figures)


def test_a_nonsensical_option_is_refused():
    with pytest.raises(PareError, match="method 'supermask': samples = -1"):
        method(samples=-1)


def test_it_learns_digits_without_training_a_weight():
    data = digits(1000, 300)
    net = build("conv2", {"width": 16, "hidden": 64}, classes=10, channels=1, size=8, seed=0)
    own = method()
    how = options(epochs=15, batch_size=64, lr=0.1, augment=False)
    trained = train(net, own, data, how, seed=0)
    assert accuracy(trained.model, data.test, data) > 0.5
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert 0.3 < kept / prunable_count(net) < 0.7
    figures = own.figures(trained.attached, lambda n: accuracy(n, data.test, data))
    assert figures["sampled_accuracy"] > 0.4
    assert 0 < figures["sampled_accuracy_spread"] < 0.15
