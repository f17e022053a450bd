"""The gate of the weight reparametrization, its budget loss, and what it keeps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable
from pipeline.methods import Phase, apparent, create
from pipeline.methods._gates import Pit, h

PHASE = Phase(name="train", epochs=1)
ONE = torch.tensor(1.0)


def literal(x, t, n=4):
    """Return the formula as it is published."""
    c1, c2 = 1 / (1 - math.exp(-1)), math.exp(-1)
    return c1 * (torch.exp(-1 / ((t * x) ** n + 1)) - c2)


def number(tensor):
    return float(tensor.detach())


def method(budget=0.1, **options):
    """The paper's mode, whose widths and loss these tests are about."""
    return create(Choice(name="reparam", mode="paper", **options), Budget(weights=budget))


def pits(model):
    return [module for module in model.modules() if isinstance(module, Pit)]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0.25, 0.0023), (0.5, 0.035), (0.75, 0.158), (1, 0.378), (1.13, 0.500),
        (1.5, 0.759), (2, 0.910), (3, 0.981),
    ],
)  # fmt: skip
def test_the_gate_has_the_values_of_the_paper(x, expected):
    digits = 4 if expected < 0.01 else 3
    assert round(float(h(torch.tensor(float(x)), ONE)), digits) == expected
    assert round(float(h(torch.tensor(x / 100), torch.tensor(100.0))), digits) == expected
    spoiled = h(torch.tensor(x * 1.02 + 0.005), ONE)  # the twin: a gate of another width
    assert round(float(spoiled), digits) != expected


@given(st.floats(-50, 50), st.floats(0.1, 1000), st.sampled_from([2, 4, 6]))
def test_the_stable_form_equals_the_literal_one_in_float64(x, t, n):
    value, width = torch.tensor(x / t, dtype=torch.float64), torch.tensor(t).double()
    assert float(h(value, width, n)) == pytest.approx(
        float(literal(value, width, n)), abs=2e-6 if abs(x) > 10 else 1e-12
    )


def test_the_twin_of_the_equality_sees_a_wrong_constant():
    x = torch.linspace(0.5, 3, 9, dtype=torch.float64)
    wrong = torch.expm1(x**4 / (1 + x**4)) / (math.e - 1 + 1e-9)
    assert not torch.allclose(wrong, literal(x, ONE.double()), rtol=0, atol=1e-12)


def test_deep_in_the_pit_weights_still_differ_where_the_literal_form_makes_them_equal():
    t, deep = torch.tensor(100.0), torch.tensor([2e-5, 5e-5, 1e-4], requires_grad=True)
    gates = h(deep, t)
    assert gates.detach().tolist() == sorted(set(gates.detach().tolist()))
    assert number(gates[2]) == pytest.approx(5.8e-9, rel=0.01)
    (deep * gates).sum().backward()
    assert (deep.grad > 0).all()
    assert literal(deep.detach(), t).abs().max() == 0  # the twin: cancelled to nothing


@given(st.floats(-1e6, 1e6, width=32), st.floats(0.125, 1e6, width=32))
def test_the_gate_is_even_and_between_zero_and_one(x, t):
    value, width = torch.tensor(x), torch.tensor(t)
    assert 0 <= float(h(value, width)) <= 1 + 1e-6
    assert float(h(value, width)) == float(h(-value, width))


@given(st.floats(0, 20, width=32), st.floats(0, 20, width=32))
def test_the_gate_grows_with_the_weight(a, b):
    small, large = sorted((a, b))
    assert float(h(torch.tensor(small), ONE)) <= float(h(torch.tensor(large), ONE)) + 1e-7


@given(st.floats(-1e6, 1e6, width=32))
def test_no_weight_makes_the_gradient_infinite(x):
    value, t = torch.tensor(x, requires_grad=True), torch.tensor(100.0, requires_grad=True)
    (value * h(value, t)).backward()
    assert torch.isfinite(value.grad)
    assert torch.isfinite(t.grad)


def test_the_ends_of_the_gate_are_exact():
    assert float(h(torch.tensor(0.0), ONE)) == 0
    assert float(h(torch.tensor(1e5), ONE)) == pytest.approx(1, abs=2e-6)


def test_the_apparent_weight_is_the_gated_one():
    model = conv_net()
    latent = model[0].weight.detach().clone()
    own = method(t=5.0).attach(model, PHASE)
    assert torch.equal(own[0].weight, latent * h(latent, torch.tensor(5.0)))
    assert torch.equal(model[0].weight, latent)


def test_the_budget_loss_is_the_squared_excess_over_the_first_cost():
    one = method(0.3, mixing=7.0, t=5.0)
    own = one.attach(conv_net(), PHASE)
    first = sum(float(h(w, torch.tensor(5.0)).sum()) for w in apparent(conv_net()).values())
    total = sum(w.numel() for w in prunable(own).values())
    target = math.floor(0.3 * total)
    assert number(one.loss(own, 0.5)) == pytest.approx(7 * ((first - target) / first) ** 2)
    assert one.cost(own) == pytest.approx(first / total)
    with torch.no_grad():
        pits(own)[0].t.mul_(1.5)
    wider = sum(float(h(w, torch.tensor(7.5)).sum()) for w in apparent(conv_net()).values())
    expected = 7 * ((wider - target) / first) ** 2
    assert number(one.loss(own, 0.5)) == pytest.approx(expected, rel=1e-5)
    assert number(one.loss(own, 0.5)) != pytest.approx(7 * ((wider - target) / wider) ** 2)


def test_at_the_target_the_budget_loss_and_its_gradient_are_zero():
    linear = nn.Linear(10, 10, bias=False)
    with torch.no_grad():
        linear.weight.zero_()
        linear.weight.view(-1)[:30] = 100.0  # thirty open gates, seventy closed
    one = method(0.3, t=1.0)
    own = one.attach(linear, PHASE)
    loss = one.loss(own, 1.0)
    loss.backward()
    assert number(loss) == pytest.approx(0, abs=1e-10)
    assert float(own.parametrizations.weight.original.grad.abs().max()) < 1e-6
    other = method(0.31, t=1.0)  # the twin: one weight away
    assert number(other.loss(other.attach(linear, PHASE), 1.0)) > 1e-4


def test_the_ramp_grows_linearly_to_the_whole_coefficient():
    one = method(mixing=2.0, ramp=0.5)
    own = one.attach(conv_net(), PHASE)
    whole = number(one.loss(own, 1.0))
    assert whole > 0
    assert [number(one.loss(own, p)) for p in (0, 0.25, 0.5)] == pytest.approx(
        [0, whole / 2, whole]
    )


@pytest.mark.parametrize(("scope", "widths"), [("global", 1), ("layer", 2)])
def test_there_is_one_width_for_all_or_one_a_layer(scope, widths):
    own = method(scope=scope).attach(conv_net(), PHASE)
    assert len(pits(own)) == 2
    assert len({id(pit.t) for pit in pits(own)}) == widths


@pytest.mark.parametrize("learnt", [True, False])
def test_the_width_moves_only_where_it_is_learnt(learnt):
    one = method(learn_t=learnt, t_lr_factor=10.0, t=5.0)
    own = one.attach(conv_net(), PHASE)
    groups = one.parameter_groups(own, lr=0.01)
    optimizer = torch.optim.SGD(groups, lr=0.01, weight_decay=0.1)
    one.loss(own, 1.0).backward()
    optimizer.step()
    assert (number(pits(own)[0].t) != 5.0) is learnt
    assert len(groups) == 1 + learnt
    if learnt:
        assert (groups[1]["lr"], groups[1]["weight_decay"]) == (pytest.approx(0.1), 0.0)


def test_every_parameter_is_in_exactly_one_group():
    one = method(scope="layer")
    own = one.attach(conv_net(), PHASE)
    found = [id(p) for group in one.parameter_groups(own, 0.1) for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in own.parameters())


def test_what_is_kept_is_what_the_network_computes_with():
    one = method(0.25, scope="layer", t=5.0)
    own = one.attach(conv_net(), PHASE)
    with torch.no_grad():
        pits(own)[0].t.fill_(0.01)  # the first layer's weights all but vanish
    masks = one.masks(own)
    assert not masks["0.weight"].any()
    assert int(masks["5.weight"].sum()) == math.floor(0.25 * (36 + 160))


@pytest.mark.parametrize("options", [{"n": 3}, {"t": 0}, {"mixing": -1}, {"scope": "channel"}])
def test_an_option_that_makes_no_sense_is_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(PareError, match=f"method 'reparam': {name} = {value!r}"):
        method(**options)
