"""What is offered as a remedy really fits: networks are planned again at what is offered."""

import pytest
from profiler_graphs import Net, head, mobilenet_v1, mobilenet_v2, mobilenet_v3_small

from pipeline.profilers.memory import plan
from pipeline.profilers.what_fits import Elasticity, largest_side, narrower_dtype


def test_a_network_up_to_a_global_pooling_takes_other_sizes():
    for network in (mobilenet_v1(), mobilenet_v2(), mobilenet_v3_small()):
        assert Elasticity.of(network).resizable


def flattened():
    net = Net(32)
    x = net.conv(net.input, 8, 3, 2)
    return net.graph(net.dense(net.flat(x), 10))


def without_an_end():
    net = Net(32)
    return net.graph(net.conv(net.input, 8, 3, 2))


@pytest.mark.parametrize("network", [flattened(), without_an_end()])
def test_a_network_whose_weights_depend_on_the_size_does_not(network):
    assert Elasticity.of(network) == Elasticity(resizable=False)


@pytest.mark.parametrize("make", [mobilenet_v1, mobilenet_v2])
@pytest.mark.parametrize("share", [0.95, 0.6, 0.3, 0.1])
def test_the_image_that_is_offered_fits(make, share):
    arena = plan(make(size=224)).greedy_bytes
    side = largest_side((224, 224), arena, share * arena)
    assert side % 8 == 0
    assert plan(make(size=side)).greedy_bytes <= 1.02 * share * arena  # "about": sides round
    larger = plan(make(size=side + 16)).greedy_bytes
    assert larger > share * arena or side + 16 > 224


def test_an_image_of_another_task_is_not_offered():
    assert largest_side((224, 224), 1000, 64) == 56
    assert largest_side((224, 224), 1000, 61) is None
    assert largest_side((224, 224), 1000, 1000) is None  # it fits as it is
    assert largest_side((224, 224), 1000, -1) is None


def stem(stride):
    """A network that peaks at its first convolution, of stride one or two."""
    net = Net(64)
    x = net.conv(net.input, 64, 3, stride)
    x = net.conv(x, 16, 3, 2)
    return net.graph(head(net, net.conv(x, 16, 3, 2), 10))


def test_a_stride_where_it_peaks_is_planned_and_not_guessed():
    found = Elasticity.of(stem(1))
    assert found.strided == "CONV_2D t1"
    assert found.strided_arena_bytes == plan(stem(2)).greedy_bytes < plan(stem(1)).greedy_bytes


def test_a_convolution_that_halves_already_gets_no_second_stride():
    assert Elasticity.of(stem(2)).strided_arena_bytes is None


def test_a_stride_inside_a_residual_block_is_not_offered():
    net = Net(64)
    x = net.conv(net.input, 16)
    y = net.conv(net.conv(x, 96), 16)
    network = net.graph(head(net, net.add(x, y), 10))
    assert Elasticity.of(network).resizable
    assert Elasticity.of(network).strided_arena_bytes is None


@pytest.mark.parametrize(
    ("dtype", "allowed", "room", "expected"),
    [
        ("fp32", ("fp32", "fp16", "int8"), 3000, ("fp16", 3000)),
        ("fp32", ("fp32", "fp16", "int8"), 2999, ("int8", 2000)),
        ("fp32", ("fp32", "int8"), 1999, None),
        ("fp32", ("fp32",), 3000, None),
        ("fp16", ("fp32", "fp16", "int8"), 3000, ("int8", 3000)),
        ("int8", ("int8",), 1, None),
        ("mixed", ("int8",), 9999, None),
    ],
)
def test_the_widest_dtype_that_fits_is_offered(dtype, allowed, room, expected):
    assert narrower_dtype(dtype, allowed, 1000, 4000, room) == expected
