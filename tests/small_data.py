"""Small data sets and networks to train on in a fraction of a second."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn

from pipeline.core.recipe import DataChoice, TrainOptions
from pipeline.data import Augmentation, Dataset, Split, load


@cache
def digits(train: int = 150, rest: int = 60) -> Dataset:
    """Return a few of the handwritten digits."""
    whole = load(DataChoice(name="digits"))
    return Dataset(
        name="few digits",
        classes=whole.classes,
        train=whole.train.subset(train, 0),
        validation=whole.validation.subset(rest, 0),
        test=whole.test.subset(rest, 0),
        mean=whole.mean,
        std=whole.std,
        augmentation=whole.augmentation,
    )


def noise(count: int, classes: int = 2, size: int = 4) -> Dataset:
    """Return noise without any meaning, for what does not depend on the images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator
    )
    split = Split(images, torch.arange(count) % classes)
    names = [str(label) for label in range(classes)]
    return Dataset("noise", names, split, split, split, [0.5], [0.3], Augmentation(shift=1))


def conv_net(classes: int = 10, width: int = 4, seed: int = 0) -> nn.Module:
    """Return a convolution, a batch norm and a classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * width, classes),
        )


def options(**changes: object) -> TrainOptions:
    """Return options of a short training on the processor."""
    fields = {"epochs": 1, "batch_size": 32, "accelerator": "cpu", **changes}
    return TrainOptions.model_validate(fields)


def same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tell whether two state dicts are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
