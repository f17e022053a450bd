"""Handwritten digits that ship with scikit-learn: 1,797 real images of 8x8 pixels."""

from __future__ import annotations

import torch

from pipeline.core.record import Record
from pipeline.data import Augmentation, Dataset, Split, split_off, statistics


class Digits:
    """The test set of UCI's optical recognition data, split 60/20/20 with a fixed seed.

    Source:
        Alpaydin & Kaynak 1998, UCI Machine Learning Repository; ``load_digits``.
    """

    class Params(Record):
        """No options."""

    @staticmethod
    def load(params: Params, argument: str | None, validation_fraction: float) -> Dataset:
        """Return the digits; a fifth of each class is the test split."""
        from sklearn.datasets import load_digits

        del params, argument
        raw = load_digits()
        images = (torch.from_numpy(raw.images) * 255 / 16).round().to(torch.uint8)[:, None]
        everything = Split(images, torch.from_numpy(raw.target).long())
        rest, test = split_off(everything, 0.2)
        train, validation = split_off(rest, validation_fraction, seed=1)
        mean, std = statistics(train.images)
        return Dataset(
            name="digits",
            classes=[str(digit) for digit in range(10)],
            train=train,
            validation=validation,
            test=test,
            mean=mean,
            std=std,
            augmentation=Augmentation(shift=1),
            note="scikit-learn digits, 8x8 grey",
        )
