"""Hard-concrete gates: their distribution, their expected L0 norm, and that they move."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net, digits, options
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable_count
from pipeline.methods import Phase, apparent, attached, create, plain
from pipeline.methods.hard_concrete import (
    BETA,
    GAMMA,
    ZETA,
    Gate,
    HardConcrete,
    drawn,
    open_probability,
    settled,
)
from pipeline.models import build
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train

PHASE = Phase(name="train", epochs=1)
COUNT = 40000


def method(budget: float = 0.1, **own: object) -> HardConcrete:
    return create(Choice(name="hard_concrete", **own), Budget(weights=budget))


def sample(log_alpha: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(COUNT, dtype=torch.float64, generator=generator).logit()
    return drawn(torch.full((COUNT,), log_alpha, dtype=torch.float64), noise)


def below(x: float, log_alpha: float) -> float:
    """Return the distribution function of a gate in (0, 1): the paper's, equation 24."""
    stretched = (x - GAMMA) / (ZETA - GAMMA)
    return 1 / (1 + math.exp(log_alpha - BETA * math.log(stretched / (1 - stretched))))


def close(frequency: float, probability: float) -> bool:
    spread = math.sqrt(probability * (1 - probability) / COUNT)
    return abs(frequency - probability) < 4 * spread + 1 / COUNT


@given(st.floats(-6, 6))
def test_the_expected_norm_is_the_share_of_drawn_gates_that_are_open(log_alpha: float):
    probability = float(open_probability(torch.tensor(log_alpha, dtype=torch.float64)))
    assert close(float((sample(log_alpha) > 0).double().mean()), probability)


def test_the_twin_without_the_stretching_is_noticed():
    assert not close(float((sample(0.0) > 0).double().mean()), 0.5)


@given(st.floats(-4, 4), st.floats(0.01, 0.99))
def test_the_gates_have_the_distribution_of_the_paper(log_alpha: float, x: float):
    assert close(float((sample(log_alpha) <= x).double().mean()), below(x, log_alpha))


@pytest.mark.parametrize(("log_alpha", "gate"), [(-12.0, 0.0), (12.0, 1.0)])
def test_at_the_extremes_gates_are_binary_drawn_or_settled(log_alpha: float, gate: float):
    assert float((sample(log_alpha) == gate).double().mean()) > 0.999
    assert float(settled(torch.tensor(log_alpha))) == gate


@given(st.floats(-50, 50), st.floats(0, 1, width=32))
def test_gates_stay_between_zero_and_one_and_their_gradients_are_numbers(log_alpha, u):
    value = torch.tensor(log_alpha, requires_grad=True)
    gate = drawn(value, torch.tensor(u).logit())
    gate.backward()
    assert 0 <= float(gate.detach()) <= 1
    assert value.grad.isfinite()


def test_settled_gates_rise_with_their_location_and_are_half_open_in_the_middle():
    gates = settled(torch.linspace(-4, 4, 81))
    assert bool((gates.diff() >= 0).all())
    assert float(gates[40]) == pytest.approx(0.5)


def test_the_gates_start_as_closed_as_asked():
    model = method(dropped=0.3).attach(conv_net(width=64), PHASE)
    for _, gate, _ in attached(model, Gate):
        start = gate.log_alpha.detach()
        assert float(start.mean()) == pytest.approx(math.log(0.7 / 0.3), abs=0.01)
        assert float(start.std()) == pytest.approx(0.01, rel=0.2)


def test_evaluation_settles_the_gates_and_training_draws_them():
    own = method(0.25)
    model = own.attach(conv_net(), PHASE)
    with torch.no_grad():
        for _, gate, _ in attached(model, Gate):
            gate.log_alpha.normal_(0, 3)
    masks = own.masks(model)  # the same, whatever the mode
    model.eval()
    state = torch.get_rng_state()
    bare = apparent(plain(model))
    assert torch.equal(torch.get_rng_state(), state)
    for name, gate, weight in attached(model, Gate):
        assert torch.equal(bare[name], (weight * settled(gate.log_alpha)).detach())
        assert torch.equal(masks[name], own.masks(model)[name])
    kept = torch.cat([bare[n].abs()[masks[n]] for n in masks])
    gone = torch.cat([bare[n].abs()[~masks[n]] for n in masks])
    assert kept.numel() == prunable_count(model) // 4
    assert kept.min() >= gone.max()
    model.train()
    assert not torch.equal(model[5].weight, model[5].weight)


def test_the_wanted_fraction_falls_to_the_budget_and_the_loss_is_the_distance_to_it():
    own = method(0.2, ramp=0.5, strength=2e-3)
    model = own.attach(conv_net(), PHASE)
    total, cost = prunable_count(model), own.cost(model)
    for progress, wanted in ((0.0, 1.0), (0.25, 0.6), (0.5, 0.2), (1.0, 0.2)):
        expected = 2e-3 * total * abs(cost - wanted)
        assert float(own.loss(model, progress).detach()) == pytest.approx(expected, rel=1e-4)
    at_once = method(0.2, ramp=0.0, strength=2e-3)
    assert at_once.wanted(0.0) == pytest.approx(0.2)


def test_toward_zero_the_penalty_is_that_of_the_paper():
    own = method(toward="zero", strength=1e-4)
    model = own.attach(conv_net(), PHASE)
    expected = 1e-4 * own.cost(model) * prunable_count(model)
    assert float(own.loss(model, 0.0).detach()) == pytest.approx(expected, rel=1e-5)


def test_the_pull_on_a_gate_fades_neither_with_the_size_of_the_network_nor_near_the_goal():
    pulls = []
    for width, budget in ((10, 0.1), (1000, 0.1), (10, 0.9)):
        own = method(budget, ramp=0.0)
        model = own.attach(nn.Linear(width, width), PHASE)
        own.loss(model, 1.0).backward()
        ((_, gate, _),) = attached(model, Gate)
        pulls.append(float(gate.log_alpha.grad.mean()))
    assert pulls[0] > 0  # a gate that falls closes
    assert pulls[1:] == pytest.approx([pulls[0]] * 2, rel=0.01)


def test_below_the_budget_gates_are_opened_again():
    own = method(0.5, ramp=0.0, dropped=0.9)
    model = own.attach(nn.Linear(10, 10), PHASE)
    assert own.cost(model) < 0.5
    own.loss(model, 1.0).backward()
    ((_, gate, _),) = attached(model, Gate)
    assert bool((gate.log_alpha.grad < 0).all())


def test_every_parameter_is_in_one_group_and_gates_do_not_decay():
    own = method(gate_lr_factor=300.0)
    model = own.attach(conv_net(), PHASE)
    groups = own.parameter_groups(model, lr=0.1)
    assert [(g["lr"], g.get("weight_decay")) for g in groups] == [
        (0.1, None), (pytest.approx(30), 0.0),
    ]  # fmt: skip
    found = sorted(id(p) for group in groups for p in group["params"])
    assert found == sorted(id(p) for p in model.parameters())


def learnt(**own: object) -> tuple[HardConcrete, object]:
    data = digits(1000, 300)
    net = build("conv2", {"width": 16, "hidden": 64}, classes=10, channels=1, size=8, seed=0)
    how = options(epochs=15, batch_size=64, lr=0.1, augment=False)
    one = method(**own)
    return one, train(net, one, data, how, seed=0)


def test_the_gates_close_to_near_the_budget_while_digits_are_learnt():
    _, trained = learnt()
    data = digits(1000, 300)
    costs = [epoch.cost for epoch in trained.history]
    assert costs[0] > 0.9
    assert 0.08 < costs[-1] < 0.2  # of a tenth
    assert trained.history[-1].pruned_accuracy > 0.8
    assert accuracy(trained.model, data.test, data) > 0.8
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert kept == prunable_count(trained.model) // 10


def test_the_twin_at_the_rate_of_the_weights_they_do_not_move():
    _, trained = learnt(gate_lr_factor=1.0)
    assert trained.history[-1].cost > 0.95
