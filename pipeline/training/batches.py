"""The training split as the network is fed it: shuffled, augmented, normalised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.recipe import TrainOptions
from pipeline.data import Dataset


class Share(NamedTuple):
    """What one of several processes is fed of a batch.

    Attributes:
        images: float32 ``[n, c, h, w]``, normalised.
        labels: int64 ``[n]``.
        weight: of its mean loss, so that the mean over the processes is that over all images
            of the batch; 1 where the processes' shares are equally large.
    """

    images: Tensor
    labels: Tensor
    weight: float


def batches(
    data: Dataset, options: TrainOptions, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and labels of one pass over the training split.

    Args:
        data: its training split, as its augmentation changes it.
        options: size and layout of the batches.
        seed: of shuffling and augmentation.
    """
    for share in shares(data, options, seed, rank=0, world=1):
        yield share.images, share.labels


def shares(
    data: Dataset, options: TrainOptions, seed: int, *, rank: int, world: int
) -> Iterator[Share]:
    """Yield what one process is fed in a pass over the training split.

    Every process draws and augments whole batches by the same generator and normalises its
    own images only: however many there are, together they see the very same images.

    Args:
        data: its training split, as its augmentation changes it.
        options: size of a whole batch, over all processes, and layout.
        seed: of shuffling and augmentation.
        rank: of this process.
        world: processes in all.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)
    for chosen in order.split(options.batch_size):
        if chosen.numel() < _smallest(data, options, world):
            continue  # batch norm needs two images; all processes leave out the same
        images = data.train.images[chosen]
        if options.augment:
            images = data.augmentation(images, generator)
        labels = data.train.labels[chosen][rank::world]
        images = data.normalise(images[rank::world])
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        yield Share(images, labels, labels.numel() * world / chosen.numel())


def batch_count(data: Dataset, options: TrainOptions, world: int = 1) -> int:
    """Return the number of batches in a pass."""
    whole, rest = divmod(len(data.train), options.batch_size)
    return whole + (rest >= _smallest(data, options, world))


def _smallest(data: Dataset, options: TrainOptions, world: int) -> int:
    """Return the images below which a short last batch is left out, over all processes."""
    return max(world, min(2, options.batch_size, len(data.train)))
