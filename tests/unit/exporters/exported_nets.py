"""Small networks that the exporters are tested on, and a way to spoil them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.signature import Signature
from pipeline.exporters.parity import Parity, compare
from pipeline.runtime.engines import open_model

MAX_FLOAT_DIFFERENCE = 1e-4
MIN_AGREEMENT = 0.8


def signature(channels: int, size: int, batch: int | None = 1) -> Signature:
    return Signature(
        channels=channels,
        height=size,
        width=size,
        mean=[0.5] * channels,
        std=[0.25] * channels,
        classes=[f"class {i}" for i in range(5)],
        batch=batch,
        producer="pare 0.0",
        recipe_hash="f00d",
        licence="CC0-1.0",
    )


def flat_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 5),
    ).eval()


class Residual(nn.Module):
    """Two convolutions with a shortcut, then the mean over all places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 12, 3, padding=1, stride=2)
        self.body = nn.Conv2d(12, 12, 3, padding=1)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


def random_images(channels: int, size: int, n: int = 40) -> np.ndarray:
    shape = (n, channels, size, size)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def reference(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(images)).numpy()


def judge(path: Path, dtype: str, images: np.ndarray, logits: np.ndarray) -> Parity:
    return compare(
        open_model(path),
        [images],
        logits.argmax(1),
        logits,
        dtype=dtype,
        max_float_difference=MAX_FLOAT_DIFFERENCE,
        min_agreement=MIN_AGREEMENT,
    )


def spoil(model: nn.Module, images: np.ndarray, dtype: str) -> nn.Module:
    """Return a copy with one weight changed by the least that parity claims to notice.

    A float file: the bias of one class by 1.5 limits. A quantized one: the bias of the
    rarest class by enough to win every image.
    """
    logits = reference(model, images)
    largest = float(np.abs(logits).max())
    spoiled = copy.deepcopy(model)
    bias = list(spoiled.parameters())[-1]
    rarest = int(np.bincount(logits.argmax(1), minlength=logits.shape[1]).argmin())
    step = 1.5 * MAX_FLOAT_DIFFERENCE if dtype == "fp32" else 3
    with torch.no_grad():
        bias[rarest] += step * largest
    return spoiled
