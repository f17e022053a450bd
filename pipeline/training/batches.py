"""The training split as the network is fed it: shuffled, augmented, normalised."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.core.recipe import TrainOptions
from pipeline.data import Dataset


def batches(
    data: Dataset, options: TrainOptions, seed: int, *, rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one pass over the training split; each process takes its share of each batch.

    Args:
        data: its training split, as its augmentation changes it.
        options: size and layout of the batches.
        seed: of shuffling and augmentation.
        rank: of this process.
        world: processes in all.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data.train), generator=generator)
    for chosen in order.split(options.batch_size * world):
        if chosen.numel() < _smallest(data, options, world):
            continue  # batch norm needs two images; all processes leave out the same
        own = chosen[rank::world]
        images = data.train.images[own]
        if options.augment:
            images = data.augmentation(images, generator)
        images = data.normalise(images)
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        yield images, data.train.labels[own]


def batch_count(data: Dataset, options: TrainOptions, world: int = 1) -> int:
    """Return the number of batches in a pass."""
    whole, rest = divmod(len(data.train), options.batch_size * world)
    return whole + (rest >= _smallest(data, options, world))


def _smallest(data: Dataset, options: TrainOptions, world: int) -> int:
    """Return the images below which a short last batch is left out, over all processes."""
    return min(2 * world, options.batch_size * world, len(data.train))
