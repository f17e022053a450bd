"""Images by name: each data set is one file with a class of the same name.

The class has a frozen ``Params`` and ``load(params, argument) -> Dataset``. A user's own
``package.module:function`` takes the table's options as keywords and returns a ``Dataset``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import PareError
from pipeline.core.plugins import DATA
from pipeline.core.recipe import DataChoice
from pipeline.core.record import parse

_BATCH = 512  # images that are floats at the same time where a whole split is looked at


@dataclass(frozen=True)
class Split:
    """Images of one split: uint8 ``[n, c, h, w]`` and labels int64 ``[n]``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return self.labels.numel()

    def subset(self, count: int, seed: int) -> Split:
        """Return ``count`` images (all, if there are fewer), drawn without replacement."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        chosen = order[:count].sort().values
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training batch that leave its labels true.

    Attributes:
        shift: largest translation in pixels; what moves in is black.
        flip: whether half of the images are mirrored left to right.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return an augmented copy of ``images`` ``[n, c, h, w]``, each drawn on its own."""
        n, _, h, w = images.shape
        out = images
        if self.shift:
            padded = torch.nn.functional.pad(images, [self.shift] * 4)
            rows = _offsets(n, self.shift, generator)[:, None] + torch.arange(h)
            columns = _offsets(n, self.shift, generator)[:, None] + torch.arange(w)
            which = torch.arange(n)[:, None, None]
            out = padded.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]]
            out = out.permute(0, 3, 1, 2)
        if self.flip:
            mirror = torch.rand(n, generator=generator) < 0.5
            out = torch.where(mirror[:, None, None, None], out.flip(3), out)
        return out.contiguous()  # the shift leaves channels last, which no `.view()` takes


def _offsets(n: int, shift: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2 * shift + 1, (n,), generator=generator)


@dataclass(frozen=True)
class Dataset:
    """Three splits of labelled images and what is needed to feed them to a network.

    Attributes:
        classes: names, in the order of the labels.
        mean: per channel, of pixels scaled to [0, 1]; ``std`` likewise.
        note: what a figure made on these images has to say.
    """

    name: str
    classes: list[str]
    train: Split
    validation: Split
    test: Split
    mean: list[float]
    std: list[float]
    augmentation: Augmentation = Augmentation()
    note: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, ``(c, h, w)``."""
        c, h, w = self.train.images.shape[1:]
        return (c, h, w)

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 pixels to what the network is fed: float32, zero mean, unit variance."""
        shape = (1, -1, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (images.float().contiguous() / 255 - mean) / std

    def batches(self, images: Tensor) -> Iterator[Tensor]:
        """Normalise images batch by batch; a whole split as floats is four times its size."""
        for part in images.split(_BATCH):
            yield self.normalise(part)


def load(choice: DataChoice) -> Dataset:
    """Load the data set a recipe names.

    Raises:
        PareError: unknown data set or option, or images that are missing or unusable.
    """
    plugin, argument = DATA.load(choice.name)
    if not hasattr(plugin, "Params"):
        return _of_user(plugin, choice)
    params = parse(plugin.Params, choice.options, f"data {choice.name!r}")
    dataset: Dataset = plugin.load(params, argument, choice.validation_fraction)
    return _checked(dataset, choice)


def _checked(dataset: Dataset, choice: DataChoice) -> Dataset:
    """Return the data set, if a network can be trained, selected and tested on it."""
    problems = []
    for name in ("train", "validation", "test"):
        split: Split = getattr(dataset, name)
        if not len(split):
            problems.append(f"the {name} split has no image")
        elif split.images.dtype != torch.uint8 or split.images.ndim != 4:
            problems.append(f"the {name} images are not uint8 of shape [n, c, h, w]")
        elif len(split.images) != len(split):
            problems.append(f"the {name} split has not as many labels as images")
        elif split.images.shape[1:] != dataset.train.images.shape[1:]:
            problems.append(f"the {name} images have another shape than those of train")
        elif (
            not 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(dataset.classes)
        ):
            problems.append(f"the {name} split has labels outside of the classes")
    if not problems and dataset.shape[1] != dataset.shape[2]:
        problems.append(f"the images are not square: {list(dataset.shape)}")
    if problems:
        raise PareError(
            f"data {choice.name!r}: {'; '.join(problems)}. Networks are trained on square "
            "images, selected on the validation split and judged on the test split."
        )
    return dataset


def _of_user(function: Any, choice: DataChoice) -> Dataset:
    try:
        dataset = function(**choice.options)
    except TypeError as error:
        raise PareError(f"data {choice.name!r}: {error}") from error
    if not isinstance(dataset, Dataset):
        raise PareError(
            f"data {choice.name!r} returned {type(dataset).__name__}, "
            "not a pipeline.data.Dataset."
        )
    return _checked(dataset, choice)


def split_off(split: Split, fraction: float, seed: int = 0) -> tuple[Split, Split]:
    """Split a part off, class by class, the same way on every machine.

    Returns:
        What remains, and the part: ``round(fraction * n)`` images of each class, at least
        one of each class that has two.
    """
    generator = torch.Generator().manual_seed(seed)
    part = torch.zeros(len(split), dtype=torch.bool)
    for label in split.labels.unique():
        members = (split.labels == label).nonzero().flatten()
        take = min(max(1, round(fraction * members.numel())), members.numel() - 1)
        order = torch.randperm(members.numel(), generator=generator)
        part[members[order[:take]]] = True
    rest = Split(split.images[~part], split.labels[~part])
    return rest, Split(split.images[part], split.labels[part])


def statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 images scaled to [0, 1].

    A channel that never varies gets a deviation of one.
    """
    total = images.numel() / images.shape[1]
    histogram = torch.stack(
        [images[:, c].flatten().bincount(minlength=256) for c in range(images.shape[1])]
    )
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (histogram * values).sum(1) / total
    variance = (histogram * (values - mean[:, None]) ** 2).sum(1) / total
    std = torch.where(variance > 0, variance.sqrt(), torch.ones_like(variance))
    return [round(v, 6) for v in mean.tolist()], [round(v, 6) for v in std.tolist()]
