"""How accurate a PyTorch network is on a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.data import Dataset, Split

_BATCH = 512


def accuracy(model: nn.Module, split: Split, data: Dataset) -> float:
    """Return the top-1 accuracy on a split, in [0, 1]."""
    outputs = logits(model, data.normalise(split.images))
    return float((outputs.argmax(1) == split.labels).double().mean())


@torch.no_grad()
def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs ``[n, classes]`` on the CPU for normalised images, in batches."""
    training = model.training
    device = next(model.parameters()).device
    parts = [model.eval()(batch.to(device)).cpu() for batch in images.split(_BATCH)]
    model.train(training)
    return torch.cat(parts)
