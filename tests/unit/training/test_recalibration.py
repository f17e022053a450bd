"""Batch norm statistics: estimated on the network that is kept, and only where asked."""

import torch
from small_data import conv_net, digits, options
from torch import nn

from pipeline.core.budget import Budget
from pipeline.core.recipe import Choice
from pipeline.methods import create
from pipeline.training.batches import batch_count, batches
from pipeline.training.evaluation import accuracy
from pipeline.training.loop import train
from pipeline.training.recalibration import pruned_network, recalibrated


def masks(net, keep=1.0):
    mask = torch.ones_like(net[0].weight, dtype=torch.bool)
    mask[int(keep * len(mask)) :] = False
    return {"0.weight": mask}


def test_statistics_are_the_mean_over_the_batches():
    net = conv_net()
    own = recalibrated(net, digits(), options(recalibration_batches=2), seed=3)
    first_two = [images for images, _ in batches(digits(), options(), seed=3)][:2]
    outputs = [net[0](images).transpose(0, 1).flatten(1) for images in first_two]
    mean = torch.stack([output.mean(1) for output in outputs]).mean(0)
    variance = torch.stack([output.var(1) for output in outputs]).mean(0)
    assert torch.allclose(own[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(own[1].running_var, variance, rtol=1e-5)
    assert not torch.allclose(net[1].running_var, variance, rtol=1e-5)


def test_the_network_is_left_as_it_was():
    net = conv_net().eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    own = recalibrated(net, digits(), options(), seed=0)
    assert not own.training
    assert own[1].momentum == net[1].momentum
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_no_batches_keep_the_averages_of_the_training():
    net = conv_net()
    assert recalibrated(net, digits(), options(recalibration_batches=0), seed=0) is net


def test_it_draws_from_a_generator_of_its_own():
    """Dropout draws from torch's; a resumed training must not notice."""
    net = nn.Sequential(nn.Dropout(0.5), conv_net())
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = recalibrated(net, digits(), options(), seed=0)
    assert torch.rand(1) == expected
    other = recalibrated(net, digits(), options(), seed=0)
    assert torch.equal(one[1][1].running_var, other[1][1].running_var)
    calm = recalibrated(net[1], digits(), options(), seed=0)
    assert not torch.equal(one[1][1].running_var, calm[1].running_var)  # it did draw


def test_a_pruned_network_gets_statistics_of_what_is_left():
    net = recalibrated(conv_net(), digits(), options(), seed=0)
    whole = pruned_network(net, masks(net), digits(), options(), seed=0)
    half = pruned_network(net, masks(net, 0.5), digits(), options(), seed=0)
    assert whole is net
    assert half[1].running_var[2:].abs().max() < 1e-8 < net[1].running_var[2:].min()


def test_a_network_that_fits_its_batches_does_not_guess():
    """What one-shot pruning leaves is worth more than the averages of before let it show."""
    data = digits(600)
    dense = create(Choice(name="dense"), Budget())
    trained = train(conv_net(width=8), dense, data, options(epochs=8, lr=0.1), seed=0).model
    with torch.no_grad():
        trained[0].weight.mul_(0.05)  # as a pruning shrinks what a channel sums up
    renewed = recalibrated(trained, data, options(), seed=0)
    assert accuracy(renewed, data.test, data) > accuracy(trained, data.test, data) + 0.1


def test_batches_are_as_many_as_counted():
    for size in (7, 32, 149, 150, 151):
        own = options(batch_size=size)
        assert len(list(batches(digits(), own, seed=0))) == batch_count(digits(), own)
