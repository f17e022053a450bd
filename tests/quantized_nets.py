"""A small network with a depthwise convolution, trained on digits, and an unequal twin."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from small_data import digits, options
from torch import Tensor, fx, nn

from pipeline.core.budget import Budget
from pipeline.core.plan import Demand
from pipeline.core.recipe import Choice
from pipeline.core.signature import Signature
from pipeline.core.target import Granularity
from pipeline.data import Dataset
from pipeline.exporters.to_onnx import ToOnnx
from pipeline.graph.equalise import apply_in_place
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.trace import trace
from pipeline.methods import create
from pipeline.quantizers.int8 import Int8
from pipeline.runtime.engines import open_model
from pipeline.training.loop import train

DIGIT = (1, 8, 8)


def data() -> Dataset:
    return digits(700, 300)


def calibration(count: int = 100) -> Tensor:
    return data().normalise(data().train.subset(count, 0).images)


def validation() -> tuple[Tensor, Tensor]:
    return data().normalise(data().validation.images), data().validation.labels


def file_logits(
    network: fx.GraphModule, granularity: Granularity, images: Tensor, folder: Path
) -> Tensor:
    """Return what onnxruntime's int8 file of a network gives."""
    signature = Signature(
        channels=1, height=8, width=8, mean=[0.5], std=[0.25], batch=None,
        classes=data().classes, producer="pare 0.0", recipe_hash="f00d",
    )  # fmt: skip
    plan = Int8.plan("onnx", Demand(granularity=granularity))
    made = ToOnnx().write(network, [plan], signature, calibration().numpy(), folder, 60)
    path = next(iter(made.values()))
    assert isinstance(path, Path), path
    return torch.from_numpy(np.asarray(open_model(path).run(images.numpy())))


def separable(width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 1),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * width, 10),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Add in one order: a training on several threads rounds otherwise, and is slower here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _trained() -> fx.GraphModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = separable()
    method = create(Choice(name="dense"), Budget())
    with one_thread():
        done = train(model, method, data(), options(epochs=15, lr=0.1), seed=0)
    return fold_batch_norm(trace(done.model, DIGIT))


def trained() -> fx.GraphModule:
    """Return the trained network, batch norms folded."""
    return copy.deepcopy(_trained())


def unequal(network: fx.GraphModule, largest: int = 5) -> fx.GraphModule:
    """Return a copy of the same outputs whose channels have ranges of very unlike size."""
    own = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for first, second in (("0", "3"), ("3", "6"), ("6", "11")):
            channels = own.get_submodule(first).weight.shape[0]
            step = torch.randint(-largest, largest + 1, (channels,), generator=generator)
            apply_in_place(own, first, second, step.float())
    return own


def outlier(network: fx.GraphModule, times: float = 100.0) -> fx.GraphModule:
    """Return a twin with one more depthwise channel, whose weight takes everybody's steps.

    It reads zeros and nobody reads it, so that the outputs are the same; a batch norm folded
    over a channel that is almost dead leaves such a weight. One scale for the whole weight
    then rounds all others to a few steps, and no equalisation helps.
    """
    wide = trace(_without_norms(9), DIGIT)
    with torch.no_grad():
        for name, tensor in wide.state_dict().items():
            narrow = network.state_dict()[name]
            tensor.zero_()
            tensor[tuple(slice(size) for size in narrow.shape)] = narrow
        depthwise = wide.get_submodule("3")
        depthwise.weight[8] = times * depthwise.weight.abs().max()
    return wide


def _without_norms(width: int) -> nn.Sequential:
    layers = list(separable())
    layers[0] = nn.Conv2d(1, width, 3, padding=1)
    layers[3] = nn.Conv2d(width, width, 3, padding=1, groups=width)
    layers[6] = nn.Conv2d(width, 16, 1)
    for number in (1, 4, 7):
        layers[number] = nn.Identity()
    return nn.Sequential(*layers)
