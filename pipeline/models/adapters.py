"""Networks of other libraries, by ``library:name``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from pipeline.core.errors import unknown


def torchvision(
    name: str, classes: int, channels: int, size: int, **options: Any
) -> nn.Module:
    """Any classification network of torchvision, as ``torchvision:NAME``.

    Weights are drawn fresh (``checkpoint`` loads trained ones); nothing is downloaded.

    Raises:
        PareError: torchvision has no classification network of that name.
        ValueError: the images are not RGB.
    """
    import torchvision.models as zoo

    del size
    names = zoo.list_models(module=zoo)
    if name not in names:
        raise unknown("torchvision model", name, names)
    if channels != 3:
        raise ValueError(f"torchvision networks take 3 channels, the data has {channels}")
    # Auxiliary heads only serve training, and their outputs are no logits; a network with
    # them has to be asked for.
    builder = inspect.signature(zoo.get_model_builder(name)).parameters
    if name in ("googlenet", "inception_v3") and "kwargs" in builder:
        options = {"aux_logits": False, "init_weights": True, **options}
    model: nn.Module = zoo.get_model(name, weights=None, num_classes=classes, **options)
    return model
