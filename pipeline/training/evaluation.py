"""How accurate a PyTorch network is on a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.data import Dataset, Split


def accuracy(model: nn.Module, split: Split, data: Dataset) -> float:
    """Return the top-1 accuracy on a split, in [0, 1]."""
    outputs = logits(model, split.images, data)
    return float((outputs.argmax(1) == split.labels).double().mean())


@torch.no_grad()
def logits(model: nn.Module, images: Tensor, data: Dataset) -> Tensor:
    """Return the outputs ``[n, classes]`` on the CPU for uint8 images of a data set."""
    training = model.training
    device = next(model.parameters()).device
    parts = [model.eval()(batch.to(device)).cpu() for batch in data.batches(images)]
    model.train(training)
    return torch.cat(parts)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two networks of one architecture have the same parameters."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
