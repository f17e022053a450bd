"""Batch norm recalibration: statistics of the network that is kept, not of its past."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pipeline.core.recipe import TrainOptions
from pipeline.data import Dataset
from pipeline.methods import masked
from pipeline.training.batches import batches
from pipeline.training.evaluation import same_weights


def recalibrated(
    model: nn.Module, data: Dataset, options: TrainOptions, seed: int
) -> nn.Module:
    """Return a copy whose batch norms were estimated on its own activations, in float32.

    The running averages of a training are of weights that have moved on, in the training's
    precision, and before the pruning. Of few weights most channels have small, skewed
    activations: there a network that fits its batches can guess in evaluation mode.

    Args:
        model: plain; on any device.
        data: its training split is looked at.
        options: of its ``recalibration_batches`` augmented batches; 0 returns ``model``.
        seed: the same batches for the same seed.

    Source:
        Li, Wu, Su & Wang, EagleEye: Fast Sub-net Evaluation for Efficient Neural Network
        Pruning, ECCV 2020, arXiv:2007.02491, section 3.3.
    """
    if not options.recalibration_batches:
        return model
    own = copy.deepcopy(model)
    images = (images for images, _ in batches(data, options, seed))
    with torch.random.fork_rng():  # dropout draws, and what is trained on must not notice
        torch.manual_seed(seed)
        update_bn(
            islice(images, options.recalibration_batches), own, next(own.parameters()).device
        )
    return own


def pruned_network(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    data: Dataset,
    options: TrainOptions,
    seed: int,
) -> nn.Module:
    """Return the network that the masks leave, with statistics of its own.

    ``model``, whose statistics are its own already, is returned where they remove nothing.
    """
    bare = masked(model, masks)
    if same_weights(bare, model):
        return model
    return recalibrated(bare, data, options, seed)
