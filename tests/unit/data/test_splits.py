"""What every data set is made of: splits, augmentation, statistics, checks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PareError
from pipeline.core.recipe import DataChoice
from pipeline.data import Augmentation, Dataset, Split, load, split_off, statistics


def images(n, c=1, h=3, w=3):
    return torch.arange(n * c * h * w).remainder(256).to(torch.uint8).view(n, c, h, w)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_split_off_takes_the_fraction_of_each_class_and_loses_nothing(labels, fraction):
    whole = Split(images(len(labels)), torch.tensor(labels))
    whole = Split(torch.arange(len(labels)).view(-1, 1, 1, 1), whole.labels)  # numbered
    rest, part = split_off(whole, fraction)
    assert sorted([*rest.images.flatten(), *part.images.flatten()]) == list(range(len(labels)))
    for split in (rest, part):
        assert torch.equal(split.labels, whole.labels[split.images.flatten()])
    for label in set(labels):
        n, taken = labels.count(label), int((part.labels == label).sum())
        assert taken == min(max(1, round(fraction * n)), n - 1)


def test_split_off_is_the_same_each_time_and_another_with_another_seed():
    whole = Split(images(100), torch.zeros(100, dtype=torch.long))
    first, again, other = (split_off(whole, 0.3, seed)[1].images for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_subset_is_drawn_without_repetition_in_order():
    whole = Split(torch.arange(20).view(20, 1, 1, 1), torch.arange(20))
    chosen = whole.subset(5, seed=0)
    assert len(chosen) == 5
    assert torch.equal(chosen.images.flatten(), chosen.labels)
    assert torch.equal(chosen.labels, chosen.labels.unique())
    assert len(whole.subset(100, seed=0)) == 20
    assert not torch.equal(chosen.labels, whole.subset(5, seed=1).labels)


def test_an_image_is_shifted_into_black_and_nothing_else():
    tiny = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    tiny[0, 0, 1, 1] = 9
    seen = {
        tuple((Augmentation(shift=1)(tiny, generator(seed))[0, 0] == 9).nonzero()[0].tolist())
        for seed in range(200)
    }
    assert seen == {(row, column) for row in range(3) for column in range(3)}


@pytest.mark.parametrize("flip", [True, False])
def test_augmented_and_normalised_images_can_be_viewed(flip):
    before = images(4, 3, 4, 4)
    assert Augmentation(1, flip)(before, generator()).view(4, -1).shape == (4, 48)
    whole = Split(before, torch.zeros(4, dtype=torch.long))
    data = Dataset("own", ["a"], whole, whole, whole, [0.0] * 3, [1.0] * 3)
    channels_last = before.to(memory_format=torch.channels_last)
    assert data.normalise(channels_last).view(4, -1).shape == (4, 48)


def test_a_split_is_normalised_a_batch_at_a_time():
    whole = Split(images(1030), torch.zeros(1030, dtype=torch.long))
    data = Dataset("own", ["a"], whole, whole, whole, [0.5], [0.25])
    parts = list(data.batches(whole.images))
    assert [len(part) for part in parts] == [512, 512, 6]
    assert torch.equal(torch.cat(parts), data.normalise(whole.images))


def test_an_image_is_mirrored_left_to_right_half_of_the_time():
    row = torch.tensor([[1, 2, 3]], dtype=torch.uint8).expand(1000, 1, 1, 3)
    out = Augmentation(flip=True)(row, generator())
    mirrored = (out == row.flip(3)).flatten(1).all(1)
    assert torch.equal(out[~mirrored], row[~mirrored])
    assert 400 < int(mirrored.sum()) < 600


@given(st.integers(0, 3), st.booleans(), st.integers(0, 99), st.integers(1, 3))
def test_augmented_images_are_windows_of_the_padded_original(shift, flip, seed, channels):
    before = images(4, channels, 4, 4) + 1
    copy = before.clone()
    out = Augmentation(shift, flip)(before, generator(seed))
    assert torch.equal(before, copy)
    assert (out.shape, out.dtype) == (before.shape, torch.uint8)
    padded = torch.nn.functional.pad(before, [shift] * 4)
    windows = padded.unfold(2, 4, 1).unfold(3, 4, 1)  # [n, c, row, column, 4, 4]
    for image, places in zip(out, windows, strict=True):
        options = places.permute(1, 2, 0, 3, 4).flatten(0, 1)
        assert any(torch.equal(image, o) or torch.equal(image, o.flip(2)) for o in options)
    assert torch.equal(out, Augmentation(shift, flip)(before, generator(seed)))


def test_without_augmentation_images_stay():
    assert torch.equal(Augmentation()(images(3), generator()), images(3))


@given(st.integers(0, 2**31), st.integers(1, 3))
def test_statistics_are_those_of_the_pixels(seed, channels):
    pixels = torch.randint(
        0, 256, (5, channels, 4, 4), dtype=torch.uint8, generator=generator(seed)
    )
    mean, std = statistics(pixels)
    scaled = pixels.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist(), abs=1e-6)
    spoiled = pixels.clone()
    spoiled[0, 0, 0, 0] ^= 1  # the twin: one pixel by one grey level
    assert statistics(spoiled)[0][0] != mean[0]


def test_a_channel_that_never_varies_can_be_divided_by():
    assert statistics(torch.full((2, 1, 2, 2), 51, dtype=torch.uint8)) == ([0.2], [1.0])


def dataset(**changes):
    split = Split(images(4), torch.tensor([0, 1, 0, 1]))
    fields = {
        "name": "tiny",
        "classes": ["a", "b"],
        "train": split,
        "validation": split,
        "test": split,
        "mean": [0.5],
        "std": [0.25],
    }
    return Dataset(**{**fields, **changes})


def test_pixels_are_normalised_channel_by_channel():
    data = dataset(mean=[0.0, 0.5], std=[1.0, 0.25])
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    out = data.normalise(pixels)
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == [0.0, 2.0]


def test_the_shape_of_one_image():
    assert dataset().shape == (1, 3, 3)


OWN = """
import torch
from pipeline.data import Dataset, Split

def tiny(n=4, h=3, w=3, label=1, dtype="uint8", empty="none", odd="none"):
    def split(name):
        count = 0 if name == empty else n
        images = torch.zeros(count, 1, h + (name == odd), w + (name == odd),
                             dtype=getattr(torch, dtype))
        return Split(images, torch.full((count,), label))
    return Dataset("own", ["a", "b"], split("train"), split("validation"), split("test"),
                   [0.5], [0.5])

def uneven():
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    return Dataset("own", ["a", "b"], split, split, split, [0.5], [0.5])

def nothing():
    return [1, 2, 3]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data_module.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("own")
def test_the_users_own_images():
    data = load(DataChoice(name="own_data_module:tiny", n=6))
    assert (data.name, len(data.train), data.shape) == ("own", 6, (1, 3, 3))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny", {"m": 1}, "unexpected keyword argument 'm'"),
        ("tiny", {"empty": "validation"}, "the validation split has no image"),
        ("tiny", {"empty": "test"}, "the test split has no image"),
        ("tiny", {"dtype": "float32"}, "train images are not uint8"),
        ("tiny", {"label": 2}, "labels outside of the classes"),
        ("tiny", {"label": -1}, "labels outside of the classes"),
        ("tiny", {"h": 4}, r"the images are not square: \[1, 4, 3\]"),
        ("tiny", {"odd": "test"}, "the test images have another shape than those of train"),
        ("uneven", {}, "train split has not as many labels as images"),
        ("nothing", {}, "returned list, not a pipeline.data.Dataset"),
    ],
)
def test_images_that_cannot_be_used_are_refused(name, options, message):
    with pytest.raises(PareError, match=message):
        load(DataChoice(name=f"own_data_module:{name}", **options))


def test_an_unknown_option_is_refused():
    with pytest.raises(PareError, match="data 'digits': unknown key 'size'"):
        load(DataChoice(name="digits", size=3))
