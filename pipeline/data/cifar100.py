"""CIFAR-100 through torchvision: 60,000 images of 32x32 in a hundred classes."""

from __future__ import annotations

from pipeline.data import Dataset
from pipeline.data.cifar10 import Cifar10, load_cifar


class Cifar100(Cifar10):
    """The original pixels; downloaded once unless they are there.

    Source:
        Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    @staticmethod
    def load(
        params: Cifar10.Params, argument: str | None, validation_fraction: float
    ) -> Dataset:
        """Return CIFAR-100 with the usual augmentation (shift by 4, mirror)."""
        del argument
        return load_cifar("CIFAR100", params.root, params.download, validation_fraction)
