"""Every training method keeps the promises the loop, the pruner and the recipe rely on."""

import json
import math

import pytest
import torch
from small_data import conv_net, digits, options, same_weights

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.plugins import METHODS
from pipeline.core.recipe import Choice
from pipeline.core.record import Record
from pipeline.graph.counting import prunable
from pipeline.methods import Method, apparent, create, plain
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train

KEYS = sorted(METHODS.plugins())


def test_the_listing_holds_what_ships():
    shipped = {
        "aslp", "continuous", "dense", "edge_popup", "filter_norm", "gradual",
        "hard_concrete", "lottery", "magnitude", "reparam", "supermask",
    }  # fmt: skip
    assert shipped <= set(KEYS)


@pytest.fixture(params=KEYS)
def key(request):
    return request.param


@pytest.fixture
def budget(key):
    return Budget(weights=0.2 if METHODS.load(key)[0].prunes else 1.0)


def test_it_says_in_a_line_what_it_is(key):
    plugin = METHODS.plugins()[key]
    assert plugin.help.endswith(".")
    assert len(plugin.help) <= 95
    assert issubclass(METHODS.load(key)[0], Method)


def test_its_options_are_frozen_and_can_be_written_down(key):
    kind = METHODS.load(key)[0].Params
    assert issubclass(kind, Record)
    params = kind()
    assert kind.model_validate(json.loads(params.model_dump_json())) == params
    for field in params.model_dump():
        assert field in (kind.__doc__ or ""), f"{field} is not documented"


def test_an_unknown_option_is_refused(key, budget):
    with pytest.raises(PareError, match=f"method '{key}': unknown key 'no_such_option'"):
        create(Choice(name=key, no_such_option=1), budget)


def as_attached(key, budget, seed):
    """Return what the network computes with before the first step, as the loop draws it."""
    method = create(Choice(name=key), budget, digits().shape)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return apparent(method.attach(conv_net(width=8), method.phases(1)[0]).eval())


def test_one_epoch_trains_and_the_argument_is_left_as_it_was(key, budget):
    model, data = conv_net(width=8), digits()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = create(Choice(name=key), budget, data.shape)
    trained = train(model, method, data, options(), seed=0)
    assert same_weights(model.state_dict(), before)
    assert trained.model.state_dict().keys() == before.keys()
    assert not same_weights(apparent(trained.model), as_attached(key, budget, seed=0))
    weights = prunable(trained.model)
    assert trained.masks.keys() == weights.keys()
    for name, mask in trained.masks.items():
        assert (mask.dtype, mask.shape) == (torch.bool, weights[name].shape)
    kept = sum(int(mask.sum()) for mask in trained.masks.values())
    wanted = budget.kept(sum(weight.numel() for weight in weights.values()))
    assert 0 < kept <= wanted if method.chooses_rate else kept == wanted
    assert len(trained.history) == sum(phase.epochs for phase in method.phases(1))


def test_its_phases_have_the_epochs_the_recipe_asked_for(key, budget):
    phases = create(Choice(name=key), budget).phases(8)
    assert sum(phase.epochs for phase in phases) == 8
    assert len({phase.name for phase in phases}) == len(phases)


def test_what_it_attaches_can_be_taken_off_again(key, budget):
    method = create(Choice(name=key), budget, digits().shape)
    own = method.attach(conv_net(width=8), method.phases(1)[0])
    assert plain(own).state_dict().keys() == conv_net().state_dict().keys()
    assert apparent(own).keys() == apparent(conv_net()).keys()
    cost = method.cost(own)
    assert cost is None or 0 <= cost <= 1


def test_evaluated_it_has_one_answer_and_draws_nothing(key, budget):
    method = create(Choice(name=key), budget, digits().shape)
    own = method.attach(conv_net(width=8), method.phases(1)[0]).eval()
    state = torch.get_rng_state()
    assert same_weights(apparent(own), apparent(own))
    assert same_weights(method.masks(own), method.masks(own))
    assert torch.equal(torch.get_rng_state(), state)


def test_its_own_figures_are_numbers_and_leave_the_network(key, budget):
    data = digits()
    method = create(Choice(name=key), budget, data.shape)
    trained = train(conv_net(width=8), method, data, options(), seed=0)
    before = {name: value.clone() for name, value in trained.attached.state_dict().items()}
    figures = method.figures(trained.attached, lambda net: accuracy(net, data.test, data))
    assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values())
    assert same_weights(trained.attached.state_dict(), before)
    assert not trained.attached.training
