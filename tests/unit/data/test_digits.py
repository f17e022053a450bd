from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits

from pipeline.core.recipe import DataChoice
from pipeline.data import load


@pytest.fixture(scope="module")
def digits():
    return load(DataChoice(name="digits"))


def test_every_image_is_in_exactly_one_split(digits):
    splits = [digits.train, digits.validation, digits.test]
    assert [len(split) for split in splits] == [1222, 216, 359]
    found = Counter(bytes(image.numpy()) for split in splits for image in split.images)
    raw = (load_digits().images * 255 / 16).round().astype("uint8")
    assert found == Counter(bytes(image) for image in raw)
    assert found.total() == 1797


def test_no_image_of_the_test_split_is_trained_on(digits):
    def rows(split):
        return {bytes(image.numpy()) for image in split.images}

    assert not rows(digits.train) & rows(digits.test)
    assert not rows(digits.train) & rows(digits.validation)
    assert not rows(digits.validation) & rows(digits.test)


def test_every_class_is_in_every_split_in_proportion(digits):
    whole = torch.from_numpy(load_digits().target).bincount()
    for split, fraction in [(digits.test, 0.2), (digits.validation, 0.8 * 0.15)]:
        assert (split.labels.bincount() - fraction * whole).abs().max() <= 1


def test_it_is_the_same_on_each_call(digits):
    again = load(DataChoice(name="digits"))
    for name in ("train", "validation", "test"):
        assert torch.equal(getattr(again, name).images, getattr(digits, name).images)
        assert torch.equal(getattr(again, name).labels, getattr(digits, name).labels)


def test_labels_are_those_of_the_images(digits):
    raw = load_digits()
    label_of = {
        bytes((image * 255 / 16).round().astype("uint8")): int(label)
        for image, label in zip(raw.images, raw.target, strict=True)
    }
    for image, label in zip(digits.test.images, digits.test.labels, strict=True):
        assert label_of[bytes(image.numpy())] == int(label)


def test_the_fraction_of_validation_is_the_recipes(digits):
    other = load(DataChoice(name="digits", validation_fraction=0.5))
    assert len(other.validation) > 3 * len(digits.validation)
    assert torch.equal(other.test.images, digits.test.images)


def test_the_training_split_is_normalised(digits):
    fed = digits.normalise(digits.train.images)
    assert float(fed.mean()) == pytest.approx(0, abs=1e-4)
    assert float(fed.std()) == pytest.approx(1, abs=1e-3)
    assert float(digits.normalise(digits.test.images).mean()) != pytest.approx(0, abs=1e-4)
