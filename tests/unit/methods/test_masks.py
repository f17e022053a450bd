"""What all methods share: exact selection, plain copies, masks that hold."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_data import conv_net, same_weights
from torch import nn
from torch.nn.utils import parametrize

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.recipe import Choice
from pipeline.graph.counting import prunable
from pipeline.methods import Phase, apparent, create, masked, plain, top_k, with_masks

PHASE = Phase(name="train", epochs=1)


def total(model):
    return sum(weight.numel() for weight in prunable(model).values())


@given(st.data())
def test_exactly_as_many_are_kept_and_none_is_smaller_than_what_is_dropped(data):
    few = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12)  # many ties
    scores = {
        name: torch.tensor(data.draw(few)) for name in data.draw(st.sampled_from(["a", "ab"]))
    }
    keep = data.draw(st.integers(0, sum(s.numel() for s in scores.values())))
    masks = top_k(scores, keep)
    flat = torch.cat(list(scores.values()))
    mask = torch.cat(list(masks.values()))
    assert mask.dtype == torch.bool
    assert int(mask.sum()) == keep
    if 0 < keep < flat.numel():
        assert flat[mask].min() >= flat[~mask].max()
    assert all(masks[name].shape == score.shape for name, score in scores.items())


def test_ties_fall_to_the_earlier():
    masks = top_k({"a": torch.ones(2, 2), "b": torch.ones(3)}, 5)
    assert masks["a"].all()
    assert masks["b"].tolist() == [True, False, False]


@pytest.mark.parametrize("name", ["magnitude", "reparam"])
@pytest.mark.parametrize("budget", [0.01, 0.1, 0.333, 1.0])
def test_the_masks_keep_exactly_what_the_budget_pays_for(name, budget):
    method = create(Choice(name=name), Budget(weights=budget))
    model = method.attach(conv_net(), PHASE)
    masks = method.masks(model)
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert kept == Budget(weights=budget).kept(total(model))
    left = masked(model, masks)
    assert sum(int((w != 0).sum()) for w in prunable(left).values()) <= kept


def test_magnitude_keeps_the_largest_of_all_layers_together():
    model = conv_net()
    with torch.no_grad():
        model[0].weight.fill_(0.1)
        model[5].weight.fill_(-0.2)
    masks = create(Choice(name="magnitude"), Budget(weights=0.5)).masks(model)
    assert not masks["0.weight"].any()
    assert int(masks["5.weight"].sum()) == total(model) // 2


def test_dense_keeps_all_and_refuses_a_budget():
    masks = create(Choice(name="dense"), Budget()).masks(conv_net())
    assert all(mask.all() for mask in masks.values())
    with pytest.raises(PareError, match=r"'dense' prunes nothing, but budget.weights = 0\.5"):
        create(Choice(name="dense"), Budget(weights=0.5))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(name="dens"), "no method named 'dens'. Did you mean 'dense'"),
        (Choice(name="dense", epochs=3), "method 'dense': unknown key 'epochs'"),
        (Choice(name="magnitude", finetune_epoch=3), "Did you mean 'finetune_epochs'"),
        (Choice(name="magnitude", finetune_epochs=-1), "finetune_epochs = -1"),
        (Choice(name="textwrap:dedent"), "is not a subclass of pipeline.methods.Method"),
    ],
)
def test_what_is_no_method_is_refused(choice, message):
    with pytest.raises(PareError, match=message):
        create(choice, Budget())


def gated():
    choice = Choice(name="reparam", mode="paper", t=5.0)
    return create(choice, Budget(weights=0.2)).attach(conv_net(), PHASE)


def test_a_plain_copy_computes_the_same_and_is_free_of_parametrizations():
    model, images = gated().eval(), torch.randn(3, 1, 6, 6)
    bare = plain(model).eval()
    assert torch.equal(bare(images), model(images))
    assert not any(parametrize.is_parametrized(module) for module in bare.modules())
    assert bare.state_dict().keys() == conv_net().state_dict().keys()
    assert type(bare[0]) is nn.Conv2d
    with torch.no_grad():  # the twin: the comparison sees the smallest change
        bare[0].weight.view(-1)[0] += 1e-3
    assert not torch.equal(bare(images), model(images))


@pytest.mark.parametrize("copy", [plain, lambda m: masked(m, {}), lambda m: with_masks(m, {})])
def test_a_copy_leaves_the_parametrized_network_usable(copy):
    model, images = gated(), torch.randn(3, 1, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model.eval()(images)
    copy(model)
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(images), expected)
    assert same_weights(model.state_dict(), before)
    model(images).sum().backward()
    assert model[0].parametrizations.weight.original.grad is not None


def test_masks_zero_a_copy_and_not_the_network():
    model = conv_net()
    masks = {
        name: torch.zeros_like(w, dtype=torch.bool) for name, w in apparent(model).items()
    }
    assert all(not w.any() for w in prunable(masked(model, masks)).values())
    assert all(w.any() for w in prunable(model).values())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_held_weights_stay_zero_under_momentum_and_decay(optimizer):
    generator = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(weight.shape, generator=generator) < 0.4
        for name, weight in apparent(conv_net()).items()
    }
    model = with_masks(conv_net(), masks)
    if optimizer == "sgd":
        own = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    else:
        own = torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.1)
    start = {name: weight.clone() for name, weight in apparent(model).items()}
    for _ in range(5):
        own.zero_grad()
        model(torch.randn(8, 1, 6, 6, generator=generator)).square().sum().backward()
        own.step()
    for name, weight in apparent(plain(model)).items():
        assert not weight[~masks[name]].any()
        assert (weight[masks[name]] != start[name][masks[name]]).any()


def test_a_network_that_is_one_layer_is_held_too():
    linear = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    held = with_masks(linear, {"weight": mask})
    assert torch.equal(held.weight != 0, mask)
    assert torch.equal(plain(held).weight, linear.weight * mask)


def test_magnitude_finetunes_as_long_and_as_fast_as_it_is_asked():
    phases = create(
        Choice(name="magnitude", finetune_epochs=3, finetune_lr_factor=0.5),
        Budget(weights=0.5),
    ).phases(7)
    assert [(p.name, p.epochs, p.lr_factor) for p in phases] == [
        ("train", 7, 1.0),
        ("finetune", 3, 0.5),
    ]
    assert len(create(Choice(name="magnitude"), Budget(weights=0.5)).phases(7)) == 1
