"""CIFAR-10 through torchvision: 60,000 images of 32x32 in ten classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.data import Augmentation, Dataset, Split, split_off, statistics


class Cifar10:
    """The original pixels; downloaded once unless they are there.

    Source:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    class Params(Record):
        """Options of the data table.

        Attributes:
            root: folder of the extracted archive's parent; used as it is where it holds
                the data.
            download: fetch the archive if it is not there.
        """

        root: str = "data"
        download: bool = True

    @staticmethod
    def load(params: Params, argument: str | None, validation_fraction: float) -> Dataset:
        """Return CIFAR-10 with the usual augmentation (shift by 4, mirror)."""
        del argument
        return load_cifar("CIFAR10", params.root, params.download, validation_fraction)


def load_cifar(name: str, root: str, download: bool, validation_fraction: float) -> Dataset:
    """Load CIFAR-10 or CIFAR-100.

    Raises:
        PareError: the data is not at ``root`` and cannot be fetched.
    """
    import torchvision.datasets as zoo

    train = _fetch(zoo, name, root, train=True, download=download)
    test = _fetch(zoo, name, root, train=False, download=download)
    rest, validation = split_off(_split(train), validation_fraction, seed=1)
    mean, std = statistics(rest.images)
    return Dataset(
        name=name.lower(),
        classes=list(train.classes),
        train=rest,
        validation=validation,
        test=_split(test),
        mean=mean,
        std=std,
        augmentation=Augmentation(shift=4, flip=True),
    )


def _fetch(zoo: Any, name: str, root: str, *, train: bool, download: bool) -> Any:
    path = Path(root).expanduser()
    make = getattr(zoo, name)
    try:
        return make(str(path), train=train, download=False)
    except RuntimeError as missing:
        if not download:
            raise PareError(f"no {name} at {path}. Check data.root.") from missing
    try:
        return make(str(path), train=train, download=True)
    except Exception as error:
        raise PareError(
            f"{name} is not at {path} and could not be downloaded: {error}. Put the extracted "
            "archive there, or check the connection."
        ) from error


def _split(raw: Any) -> Split:
    images = torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.tensor(raw.targets))
