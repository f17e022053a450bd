"""Every listed network builds, gives logits, can be traced and says what it is."""

import inspect

import pytest
import torch

from pipeline.core.plugins import MODELS
from pipeline.graph.counting import prunable
from pipeline.graph.trace import trace
from pipeline.models import build

KEYS = sorted(MODELS.plugins())
#: What an adapter is called with; its function takes a name before everything else.
SAMPLES = {"torchvision": "torchvision:squeezenet1_1"}


def accepted(key):
    return list(inspect.signature(MODELS.load(key)[0]).parameters)


ADAPTERS = [key for key in KEYS if accepted(key)[0] == "name"]
PLAIN = [key for key in KEYS if key not in ADAPTERS]


def narrow(key, width):
    return {"width": width} if "width" in accepted(key) else {}


def test_the_listing_holds_what_ships():
    networks = {"conv2", "conv4", "conv6", "resnet8", "resnet18", "resnet20", "vgg16", "vgg19"}
    networks |= {"mobilenet_v1", "resnet56"}
    assert networks <= set(PLAIN)
    assert set(ADAPTERS) == set(SAMPLES)


@pytest.mark.parametrize("key", [*PLAIN, *SAMPLES.values()])
def test_it_gives_logits_and_can_be_traced(key):
    options = narrow(key, 8) if key in PLAIN else {}
    shape = {"classes": 7, "channels": 3, "size": 32}
    model = build(key, options, **shape, seed=0).eval()
    with torch.no_grad():
        logits = model(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert prunable(model)
    nodes = list(trace(model, (3, 32, 32)).graph.nodes)
    assert nodes[-1].args[0].meta["shape"] == (2, 7)


@pytest.mark.parametrize("key", PLAIN)
def test_it_takes_grey_images(key):
    model = build(key, narrow(key, 4), classes=2, channels=1, size=32, seed=0).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("key", [*PLAIN, *ADAPTERS])
def test_it_says_in_a_line_what_it_is(key):
    text = MODELS.plugins()[key].help
    assert text.endswith(".")
    assert len(text) <= 95
