"""Batch norm over the whole batch, of which each process has a share.

torch's own ``SyncBatchNorm`` refuses the CPU; this one works wherever the processes can add.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def whole_batch_norms(model: nn.Module, *, rank: int, world: int) -> Iterator[None]:
    """Let the batch norms of a model that trains see the batches of all processes.

    The layers themselves stay what they are, so that a copy made for assessment counts its
    own images, as in one process; the loop's own model is as it was afterwards.

    Args:
        model: all processes run it the same way.
        rank: of this process.
        world: processes in all.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if world == 1:
        norms = []
    for norm in norms:
        norm.forward = partial(_forward, norm, rank, world)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


def _forward(norm: _BatchNorm, rank: int, world: int, images: Tensor) -> Tensor:
    """Return the normalised activations ``[n, c, ...]`` of this process's share."""
    if not norm.training:
        return type(norm).forward(norm, images)
    values = images.float()
    mean, variance, count = _statistics(values, rank, world)
    _follow(norm, mean.detach(), variance.detach(), count)
    shape = (1, -1, *[1] * (images.dim() - 2))
    scale = (variance + norm.eps).rsqrt()
    out = (values - mean.view(shape)) * scale.view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(images.dtype)


def _statistics(values: Tensor, rank: int, world: int) -> tuple[Tensor, Tensor, float]:
    """Return mean and biased variance ``[c]`` over all processes, and the values of each."""
    axes = [0, *range(2, values.dim())]
    variance, mean = torch.var_mean(values, axes, correction=0)
    count = mean.new_full((1,), values.numel() / values.shape[1])
    own = torch.cat([mean, variance, count])
    table = own.new_zeros(world, own.numel()).index_put((torch.tensor([rank]),), own[None])
    means, variances, counts = _Sum.apply(table).split([*[mean.numel()] * 2, 1], dim=1)
    parts = counts.detach() / counts.detach().sum()
    whole = (parts * means).sum(0)
    # Of two terms that are both positive: nothing cancels, however far the mean is from zero.
    spread = (parts * (variances + (means - whole) ** 2)).sum(0)
    return whole, spread, float(counts.detach().sum())


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor, count: float) -> None:
    """Move the running averages, as the layer itself does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    step = norm.momentum
    if step is None:
        step = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, step)
    norm.running_var.lerp_(variance * (count / (count - 1)), step)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes, and of its gradients on the way back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        del ctx
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
