"""Parameter counts as published: see the docstrings of the models for the sources."""

import pytest
import torch
from torch import nn

from pipeline.core.errors import PareError
from pipeline.graph.counting import count, prunable
from pipeline.models import build


def network(key, size=32, channels=3, seed=0, classes=10, **options):
    return build(key, options, classes=classes, channels=channels, size=size, seed=seed)


@pytest.mark.parametrize(
    ("key", "options", "parameters", "weights"),
    [
        ("conv2", {}, 4_301_642, 4_300_992),
        ("conv4", {}, 2_425_930, 2_425_024),
        ("conv6", {}, 2_262_602, 2_261_184),
        ("vgg16", {}, 14_728_266, 14_715_584),
        ("vgg19", {}, 20_040_522, 20_024_000),
        ("resnet8", {}, 78_186, 77_360),
        ("resnet18", {}, 11_173_962, 11_164_352),
        ("resnet20", {}, 269_722, 268_336),
        ("resnet20", {"shortcut": "B"}, 272_474, 270_896),
        ("resnet56", {}, 853_018, 848_944),
    ],
)
def test_the_parameters_are_those_of_the_literature(key, options, parameters, weights):
    model = network(key, **options)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(w.numel() for w in prunable(model).values()) == weights


@pytest.mark.parametrize(
    ("key", "convolutions", "linear"),
    [
        ("conv2", 38_592, 4_262_400),
        ("conv4", 259_776, 2_165_248),
        ("conv6", 1_144_512, 1_116_672),
        ("resnet20", 267_696, 640),
    ],
)
def test_the_weights_are_where_the_literature_has_them(key, convolutions, linear):
    by_kind = {nn.Conv2d: 0, nn.Linear: 0}
    for module in network(key).modules():
        if type(module) in by_kind:
            by_kind[type(module)] += module.weight.numel()
    assert by_kind == {nn.Conv2d: convolutions, nn.Linear: linear}


def test_resnet8_costs_what_mlperf_tiny_says():
    macs = count(network("resnet8"), (3, 32, 32)).macs
    assert round(macs / 1e6, 2) == 12.50
    wider = count(network("resnet8", width=17), (3, 32, 32)).macs  # the twin
    assert round(wider / 1e6, 2) != 12.50


def test_mobilenet_is_the_one_of_mlperf_tiny():
    """221,794 in its reference, which counts the running statistics of batch norm."""
    model = network("mobilenet_v1", size=96, classes=2)
    statistics = [b for n, b in model.named_buffers() if not n.endswith("num_batches_tracked")]
    trained = sum(p.numel() for p in model.parameters())
    assert (trained, trained + sum(b.numel() for b in statistics)) == (216_322, 221_794)
    assert round(count(model, (3, 96, 96)).macs / 1e6, 1) == 7.5
    strides = [m.stride[0] for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [n for n, stride in enumerate(strides) if stride == 2] == [0, 3, 7, 11, 23]


@pytest.mark.parametrize(
    ("key", "parameters"),
    [("conv2", 16_933_384), ("conv4", 8_766_216), ("conv6", 5_457_160)],
)
def test_the_conv_networks_of_tiny_imagenet(key, parameters):
    """The first linear layer grows with the image: 32, 16 and 8 pixels are left of 64."""
    model = network(key, size=64, classes=200)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize(("key", "smallest"), [("conv2", 2), ("conv4", 4), ("conv6", 8)])
def test_the_conv_networks_take_any_size_that_their_pools_leave_a_pixel_of(key, smallest):
    for size in (smallest, smallest + 1, 2 * smallest + 1):
        model = network(key, size=size, width=4, hidden=4).eval()
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 10)
    with pytest.raises(PareError, match=f"at least {smallest} pixels, got {smallest - 1}"):
        network(key, size=smallest - 1)


def test_the_seed_decides_the_weights_and_the_callers_random_state_is_left():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = network("resnet8"), network("resnet8"), network("resnet8", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.fc.weight, same.fc.weight)
    assert not torch.equal(one.fc.weight, other.fc.weight)


def test_a_network_of_torchvision():
    model = network("torchvision:shufflenet_v2_x0_5", classes=7)
    assert model.fc.out_features == 7


def test_options_reach_torchvision():
    model = network("torchvision:mobilenet_v2", width_mult=0.25)
    assert model.features[0][0].out_channels == 8


OWN = """
from torch import nn

def net(classes, channels, size, hidden=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, hidden),
                         nn.Linear(hidden, classes))

def broken(classes, channels, size):
    raise ValueError("too small")

def nothing(classes, channels, size):
    return "no module"
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_models_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_the_users_own_network():
    assert network("own_models_module:net", hidden=5)[1].out_features == 5


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("key", "options", "message"),
    [
        (
            "conv2",
            {"widht": 3},
            r"no option 'widht'\. Did you mean 'width'\? It takes: width, ",
        ),
        ("conv2", {"seed": 3}, "no option 'seed'"),
        ("conv2", {"classes": 3}, "no option 'classes'"),
        ("resnet20", {"shortcut": "C"}, "'C' is not allowed; choose 'A' or 'B'"),
        ("resnet56", {"shortcut": "C"}, "'C' is not allowed; choose 'A' or 'B'"),
        *(
            (
                key,
                {"width": width},
                rf"{key}' cannot be built: width = .*: a whole number of at",
            )
            for key in (
                "conv2",
                "conv6",
                "vgg16",
                "resnet8",
                "resnet18",
                "resnet20",
                "mobilenet_v1",
            )
            for width in (0, -1, 0.25, "8", True, None)
        ),
        ("conv4", {"hidden": 0}, "hidden = 0: a whole number of at least 1 is wanted"),
        ("conv6", {"size": 4}, "3 pools need at least 8 pixels, got 4"),
        ("vgg16", {"size": 8}, "four pools need at least 16 pixels, got 8"),
        (
            "torchvision:resnet81",
            {},
            "no torchvision model named 'resnet81'. Did you mean 'res",
        ),
        ("torchvision:resnet18", {"channels": 1}, "take 3 channels, the data has 1"),
        ("torchvision:resnet18", {"depth": 1}, "cannot be built: .*depth"),
        ("own_models_module:broken", {}, "cannot be built: too small"),
        ("own_models_module:nothing", {}, r"returned str, not a torch.nn.Module\."),
        ("own_models_module:none", {}, "module own_models_module has no 'none'"),
        ("resnet21", {}, "no model named 'resnet21'. Did you mean 'resnet20'"),
    ],
)
def test_what_cannot_be_built_is_refused(key, options, message):
    shape = {k: v for k, v in options.items() if k in ("size", "channels")}
    rest = {k: v for k, v in options.items() if k not in shape}
    with pytest.raises(PareError, match=message):
        build(key, rest, **{"classes": 10, "channels": 3, "size": 32, "seed": 0, **shape})
