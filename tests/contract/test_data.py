"""Every data set has a line of help and documented options; the one that ships loads."""

import json

import pytest
import torch

from pipeline.core.plugins import DATA
from pipeline.core.record import Record
from pipeline.data import Dataset

KEYS = sorted(DATA.plugins())


def test_the_listing_holds_what_ships():
    assert {"cifar10", "cifar100", "digits", "image_folder", "tiny_imagenet"} <= set(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_it_says_what_it_is_and_its_options_can_be_written_down(key):
    plugin = DATA.plugins()[key]
    assert plugin.help.endswith(".")
    assert len(plugin.help) <= 95
    kind = DATA.load(key)[0].Params
    assert issubclass(kind, Record)
    assert kind.model_validate(json.loads(kind().model_dump_json())) == kind()
    assert callable(DATA.load(key)[0].load)


def test_what_ships_needs_nothing_else():
    kind = DATA.load("digits")[0]
    data = kind.load(kind.Params(), None, 0.15)
    assert isinstance(data, Dataset)
    assert len(data.mean) == len(data.std) == data.shape[0]
    for split in (data.train, data.validation, data.test):
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert split.labels.unique().tolist() == list(range(len(data.classes)))
