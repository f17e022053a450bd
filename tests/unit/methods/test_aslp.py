"""ASLP: the stable Gumbel-softmax, untrained weights, and the one topology it freezes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_data import conv_net, digits, options
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable_count
from pipeline.methods import Phase, apparent, create, plain
from pipeline.methods._untrained import logits
from pipeline.methods.aslp import Aslp, naive, stable
from pipeline.models import build
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train

PHASE = Phase(name="train", epochs=1)


def method(budget: float = 1.0, **own: object) -> Aslp:
    return create(Choice(name="aslp", **own), Budget(weights=budget))


def gumbels(count: int) -> torch.Tensor:
    """Return the noise that torch's own Gumbel-softmax draws from the same state."""
    return -torch.empty(2, count, dtype=torch.float64).exponential_().log()


def answer(mask: torch.Tensor, m_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mask, and the gradient of a sum in which no two weights count alike."""
    (mask * torch.linspace(-2, 3, mask.numel())).sum().backward()
    return mask.detach(), m_hat.grad


def three_forms(tau: float, nudge: float = 0.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return torch's Gumbel-softmax over [m_hat; 0], ours, and the naive one: same noise."""
    torch.manual_seed(0)
    start = torch.randn(500, dtype=torch.float64) * 3
    found = []
    for form in ("torch", "stable", "naive"):
        m_hat = start.clone().requires_grad_()
        torch.manual_seed(1)
        if form == "torch":
            both = torch.stack([m_hat, torch.zeros_like(m_hat)])
            mask = F.gumbel_softmax(both, tau, hard=True, dim=0)[0]
        elif form == "stable":
            one, other = gumbels(500)
            mask = stable(m_hat, one - other + nudge, tau)
        else:
            mask = naive(m_hat, tau)
        found.append(answer(mask, m_hat))
    return found


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_one_sigmoid_is_the_gumbel_softmax_over_two_and_so_is_the_naive_form(tau: float):
    expected, *others = three_forms(tau)
    assert 0.3 < float(expected[0].mean()) < 0.7
    assert float(expected[1].abs().max()) > 0.1
    for mask, gradient in others:
        torch.testing.assert_close(mask, expected[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, expected[1], rtol=0, atol=1e-11)


def test_the_twin_noise_that_is_off_by_a_little_is_noticed():
    expected, spoiled, _ = three_forms(1.0, nudge=1e-9)
    assert not torch.allclose(spoiled[1], expected[1], rtol=0, atol=1e-11)


@pytest.mark.parametrize("value", [-200.0, -89.0, 17.0, 200.0])
def test_where_a_logit_is_large_the_naive_gradient_is_no_number_and_the_stable_one_is(value):
    both = []
    for form in (naive, lambda m: stable(m, torch.rand_like(m).logit_())):
        m_hat = torch.full((200,), value, requires_grad=True)
        both.append(answer(form(m_hat), m_hat))
    (mask, broken), (same, sound) = both
    assert torch.equal(mask, same)  # the masks are right: it is the gradient that breaks
    assert broken.isnan().all()
    assert sound.isfinite().all()


@pytest.mark.parametrize("value", [-80.0, -10.0, 16.0])
def test_up_to_there_the_naive_gradient_is_a_number(value):
    m_hat = torch.full((200,), value, requires_grad=True)
    assert answer(naive(m_hat), m_hat)[1].isfinite().all()


@pytest.mark.parametrize("noise", [-torch.inf, torch.inf])
def test_noise_from_the_end_of_the_interval_gives_a_mask_and_no_gradient(noise: float):
    m_hat = torch.zeros(3, requires_grad=True)
    mask, gradient = answer(stable(m_hat, torch.full((3,), noise)), m_hat)
    assert mask.tolist() == [float(noise > 0)] * 3
    assert gradient.tolist() == [0.0] * 3


@pytest.mark.parametrize("formulation", ["stable", "naive"])
def test_a_weight_is_kept_with_the_probability_its_logit_says(formulation):
    own = method(formulation=formulation)
    model = own.attach(nn.Linear(20000, 2), PHASE).train()
    (_, m_hat), *_ = logits(model)
    with torch.no_grad():
        m_hat[0], m_hat[1] = 1.5, -0.5
    torch.manual_seed(0)
    kept = (model.weight != 0).double().mean(1)
    # Three standard deviations of the mean of 20,000 coins.
    expected = torch.tensor([1.5, -0.5]).double().sigmoid()
    torch.testing.assert_close(kept, expected, rtol=0, atol=0.0106)


def test_what_is_evaluated_is_the_frozen_topology_and_never_drawn():
    model = method().attach(conv_net(), PHASE)
    with torch.no_grad():
        for _, m_hat in logits(model):
            m_hat.normal_()
    model.eval()
    state = torch.get_rng_state()
    first, second = apparent(model), apparent(model)
    assert torch.equal(torch.get_rng_state(), state)
    for name, m_hat in logits(model):
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name] != 0, m_hat > 0)
    model.train()  # the twin: in training every pass draws anew
    assert not torch.equal(model[5].weight, model[5].weight)


def test_positive_logits_are_kept_and_one_that_never_had_a_gradient_is_not():
    own = method()
    model = own.attach(conv_net(), PHASE)
    with torch.no_grad():
        for _, m_hat in logits(model):
            m_hat.copy_(torch.arange(m_hat.numel()).view_as(m_hat) % 3 - 1)
    for name, mask in own.masks(model).items():
        assert torch.equal(mask, dict(logits(model))[name] > 0)
    model.eval()
    frozen = plain(model)
    kept = own.masks(model)
    for name, weight in apparent(frozen).items():
        assert torch.equal(weight != 0, kept[name])  # what is tested is what is kept


def test_of_more_than_the_budget_pays_for_those_of_largest_logit_are_kept():
    own = method(0.25)
    model = own.attach(conv_net(), PHASE)
    with torch.no_grad():
        for _, m_hat in logits(model):
            m_hat.uniform_(0.1, 1)
    masks, total = own.masks(model), prunable_count(model)
    assert sum(int(mask.sum()) for mask in masks.values()) == total // 4
    kept = torch.cat([m[masks[n]] for n, m in logits(model)])
    gone = torch.cat([m[~masks[n]] for n, m in logits(model)])
    assert kept.min() >= gone.max()


@pytest.mark.parametrize("rescale", [True, False])
def test_only_logits_and_scales_are_trained_each_at_its_rate(rescale: bool):
    own = method(rescale=rescale, mask_lr_factor=500.0, scale_lr_factor=0.01)
    model = own.attach(conv_net(), PHASE)
    groups = own.parameter_groups(model, lr=0.1)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [
        (pytest.approx(50), 0.0), (pytest.approx(1e-3), 0.0),
    ][: 1 + rescale]  # fmt: skip
    found = sorted(id(p) for group in groups for p in group["params"])
    assert found == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(found) == 2 * (1 + rescale)


def test_after_training_every_weight_bias_and_norm_is_what_it_was():
    own = method()
    with torch.random.fork_rng():
        torch.manual_seed(3)  # as the loop does, before it attaches
        before = own.attach(conv_net(), PHASE).state_dict()
    trained = train(conv_net(), own, digits(), options(epochs=2, lr=0.1), seed=3)
    after = trained.attached.state_dict()
    learnt = {name for name in after if not torch.equal(after[name], before[name])}
    buffers = {name for name in after if "running" in name or "num_batches" in name}
    own_parts = {f"{n}.parametrizations.weight.0" for n in ("0", "5")}
    assert {f"{part}.m_hat" for part in own_parts} <= learnt
    assert learnt - buffers <= {f"{p}.{n}" for p in own_parts for n in ("m_hat", "scale")}


def test_the_learnt_scale_is_in_the_network_that_is_shipped():
    model = method().attach(conv_net(), PHASE).eval()
    with torch.no_grad():
        for _, m_hat in logits(model):
            m_hat.fill_(1.0)
        model[0].parametrizations.weight[0].scale.fill_(3.0)
    latent = model[0].parametrizations.weight.original
    assert torch.equal(plain(model)[0].weight, 3 * latent)


def test_signed_constants_have_the_signs_and_the_deviation_of_the_weights():
    own = method(redraw=False, signed_constant=True)
    model = own.attach(conv_net(), PHASE)
    for module, given in ((model[0], conv_net()[0]), (model[5], conv_net()[5])):
        latent = module.parametrizations.weight.original
        expected = given.weight.sign() * given.weight.std(unbiased=False)
        torch.testing.assert_close(latent, expected.detach())
        assert latent.abs().unique().numel() == 1


@pytest.mark.parametrize("redraw", [True, False])
def test_weights_are_drawn_anew_only_where_asked(redraw: bool):
    given = conv_net(width=64)
    with torch.no_grad():
        given[1].weight.fill_(2.0)
    model = method(redraw=redraw).attach(given, PHASE)
    latent = model[5].parametrizations.weight.original
    assert torch.equal(latent, given[5].weight) is not redraw
    assert bool((model[1].weight == 1).all()) is redraw
    if redraw:  # Kaiming: the variance is two over the fan-in
        assert float(latent.std()) == pytest.approx((2 / 256) ** 0.5, rel=0.05)


def test_logits_that_are_no_numbers_end_the_training_with_what_to_do():
    own = method(formulation="naive")
    model = own.attach(conv_net(), PHASE)
    own.after_epoch(model, 0.25)  # the twin: sound logits are let through
    with torch.no_grad():
        next(m_hat for _, m_hat in logits(model)).view(-1)[0] = torch.nan
    with pytest.raises(PareError, match=r"25% of the training.*'0.weight'.*'stable'"):
        own.after_epoch(model, 0.25)


def test_at_a_rate_that_breaks_the_naive_form_the_stable_one_still_learns():
    data = digits(1000, 300)
    net = build("conv2", {"width": 16, "hidden": 64}, classes=10, channels=1, size=8, seed=0)
    how = options(epochs=6, batch_size=64, lr=0.1)
    with pytest.raises(PareError, match="The naive formulation breaks"):
        train(net, method(formulation="naive", mask_lr_factor=2e4), data, how, seed=0)
    trained = train(net, method(mask_lr_factor=2e4), data, how, seed=0)
    assert trained.history[-1].pruned_accuracy > 0.4


def test_it_learns_digits_without_training_a_weight():
    data = digits(1000, 300)
    net = build("conv2", {"width": 16, "hidden": 64}, classes=10, channels=1, size=8, seed=0)
    own = method()
    how = options(epochs=15, batch_size=64, lr=0.1, augment=False)
    trained = train(net, own, data, how, seed=0)
    assert accuracy(trained.model, data.test, data) > 0.6
    total = prunable_count(net)
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    assert 0.3 < kept / total < 0.7
    assert trained.history[-1].accuracy == trained.history[-1].pruned_accuracy
