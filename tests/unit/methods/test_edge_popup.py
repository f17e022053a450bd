"""Edge-popup: exactly the best-scored edges, in each layer and in all."""

from __future__ import annotations

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
from pipeline.methods.edge_popup import EdgePopup, Popup, shares
from pipeline.models import build
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train

PHASE = Phase(name="train", epochs=1)
SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=6)


def method(budget: float = 0.5, **own: object) -> EdgePopup:
    return create(Choice(name="edge_popup", **own), Budget(weights=budget))


def latent(model: nn.Module, layer: int) -> torch.Tensor:
    return model[layer].parametrizations.weight.original


@given(SIZES, st.floats(0.001, 1))
def test_the_shares_are_exact_proportional_and_leave_no_layer_empty_without_need(sizes, part):
    keep = max(1, int(part * sum(sizes)))
    found = shares(sizes, keep)
    assert sum(found) == keep
    for size, count in zip(sizes, found, strict=True):
        assert 0 <= count <= size
        assert abs(count - keep * size / sum(sizes)) < 1
    if keep >= len(sizes) and 0 in found:  # only where every layer rounds up to one
        assert sum(keep * size < sum(sizes) for size in sizes) > keep - sum(
            keep * size // sum(sizes) for size in sizes
        )


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 1))
def test_exactly_as_many_pop_up_in_each_layer_and_in_all(width, hidden, part):
    net = nn.Sequential(nn.Linear(5, width), nn.Linear(width, hidden), nn.Linear(hidden, 3))
    total = prunable_count(net)
    if int(part * total) < 1:
        part = 1 / total
    own = method(part)
    model = own.attach(net, PHASE)
    sizes = [weight.numel() for weight in apparent(net).values()]
    expected = shares(sizes, Budget(weights=part).kept(total))
    masks = own.masks(model)
    assert [int(mask.sum()) for mask in masks.values()] == expected
    assert [int((w != 0).sum()) for w in apparent(plain(model)).values()] == expected
    for name, popup, _ in attached(model, Popup):
        scores, mask = popup.scores.detach().abs(), masks[name]
        if 0 < int(mask.sum()) < mask.numel():
            assert scores[mask].min() >= scores[~mask].max()


@pytest.mark.parametrize("k", [0, 3, 7])
def test_equal_scores_do_not_make_it_more_or_fewer(k: int):
    popup = Popup(torch.ones(1, 7), k)
    with torch.no_grad():
        popup.scores.fill_(-0.5)
    assert int(popup.mask().detach().sum()) == k


def test_the_gradient_passes_straight_through_to_the_scores():
    weight = torch.randn(4, 6, dtype=torch.float64)
    popup = Popup(weight, 9)
    masked = popup(weight)
    masked.retain_grad()
    (masked * torch.randn(4, 6, dtype=torch.float64)).sum().backward()
    expected = masked.grad * weight * popup.scores.detach().sign()
    torch.testing.assert_close(popup.scores.grad, expected, rtol=0, atol=1e-12)
    hidden = popup.mask() == 0
    assert popup.scores.grad[hidden].abs().min() > 0  # what is not used can still rise
    spoiled = masked.grad * (weight + 1e-9) * popup.scores.detach().sign()
    assert not torch.allclose(popup.scores.grad, spoiled, rtol=0, atol=1e-12)


def test_scores_start_as_pytorchs_own_weights_do():
    model = method().attach(nn.Linear(100, 50), PHASE)
    scores = model.parametrizations.weight[0].scores
    assert 0.095 < float(scores.detach().abs().max()) <= 0.1  # uniform within 1 / sqrt(100)


@pytest.mark.parametrize(("scale_fan", "variance"), [(False, 2 / 256), (True, 2 / 64)])
def test_weights_have_the_variance_of_the_fan_in_that_is_kept(scale_fan, variance):
    normal = method(0.25, weights="normal", scale_fan=scale_fan)
    drawn = latent(normal.attach(conv_net(width=64), PHASE), 5)
    assert float(drawn.var()) == pytest.approx(variance, rel=0.12)
    assert drawn.unique().numel() > 1000
    constant = method(0.25, weights="signed_constant", scale_fan=scale_fan)
    drawn = latent(constant.attach(conv_net(width=64), PHASE), 5)
    torch.testing.assert_close(drawn.abs(), torch.full_like(drawn, variance**0.5))
    assert 0.4 < float((drawn > 0).double().mean()) < 0.6


def test_given_weights_are_taken_as_they_are():
    given_net = conv_net()
    with torch.no_grad():
        given_net[1].weight.fill_(2.0)
    model = method(weights="given", biases=True).attach(given_net, PHASE)
    assert torch.equal(latent(model, 5), given_net[5].weight)
    assert torch.equal(model[5].bias, given_net[5].bias)
    assert bool((model[1].weight == 2).all())


@pytest.mark.parametrize("biases", [False, True])
def test_there_are_no_biases_unless_asked_for(biases: bool):
    model = method(biases=biases).attach(conv_net(), PHASE)
    assert bool(model[0].bias.any()) is biases
    assert bool(model[5].bias.any()) is biases


def test_only_the_scores_are_trained():
    own = method()
    with torch.random.fork_rng():
        torch.manual_seed(3)  # as the loop does, before it attaches
        before = own.attach(conv_net(), PHASE).state_dict()
    trained = train(conv_net(), own, digits(), options(epochs=2, lr=0.1), seed=3)
    after = trained.attached.state_dict()
    learnt = {name for name in after if not torch.equal(after[name], before[name])}
    assert {name for name in learnt if "running" not in name and "batches" not in name} == {
        "0.parametrizations.weight.0.scores",
        "5.parametrizations.weight.0.scores",
    }


def test_it_learns_digits_without_training_a_weight():
    data = digits(1000, 300)
    net = build("conv2", {"width": 16, "hidden": 64}, classes=10, channels=1, size=8, seed=0)
    how = options(epochs=12, batch_size=64, lr=0.1, augment=False)
    trained = train(net, method(), data, how, seed=0)
    assert accuracy(trained.model, data.test, data) > 0.7
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert kept == prunable_count(net) // 2
    assert trained.history[-1].accuracy == trained.history[-1].pruned_accuracy
