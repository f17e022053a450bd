"""The network that a checkpoint was trained in, by its name and the weights themselves."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.core.errors import PareError, did_you_mean
from pipeline.core.plugins import MODELS
from pipeline.models import build, load_state

_SIZES = ("classes", "channels", "size")


def network_of(key: str, options: Mapping[str, Any], shape: tuple[int, ...]) -> nn.Module:
    """Build a network for images of a shape, with weights of no meaning.

    A factory of the user's own is given those of ``classes``, ``channels`` and ``size``
    that it takes; a class of a ``torch.nn.Module`` is such a factory.

    Args:
        key: a listed model, ``torchvision:NAME`` or ``package.module:factory``.
        options: the model's own keyword options, and ``classes``.
        shape: of one input image, ``(c, h, w)``.

    Raises:
        PareError: unknown model or option, or the factory returns no network.
    """
    own = dict(options)
    function, argument = MODELS.load(key)
    takes = inspect.signature(function).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    if argument is not None or free or takes.keys() >= set(_SIZES):
        classes = own.pop("classes", 1)
        return build(key, own, classes=classes, channels=shape[0], size=shape[1], seed=0)
    for option in own:
        if option not in takes:
            raise PareError(
                f"model {key!r} has no option {option!r}. {did_you_mean(option, takes)}"
                f"It takes: {', '.join(takes) or 'none'}."
            )
    sizes = {"channels": shape[0], "size": shape[1]}
    given = {name: size for name, size in sizes.items() if name in takes} | own
    try:
        model = function(**given)
    except (TypeError, ValueError) as error:
        raise PareError(
            f"model {key!r} cannot be built: {error}. Options are given as --set KEY=VALUE."
        ) from error
    if not isinstance(model, nn.Module):
        raise PareError(
            f"model {key!r} returned {type(model).__name__}, not a torch.nn.Module."
        )
    return model


def with_weights(
    key: str,
    options: Mapping[str, Any],
    shape: tuple[int, ...],
    state: Mapping[str, Tensor],
    where: Path,
) -> nn.Module:
    """Build the network of a checkpoint and load its weights, in evaluation mode.

    Without an option ``classes`` their number is read off the weights.

    Raises:
        PareError: the network is another one; names the first tensors that differ.
    """
    model = network_of(key, options, shape)
    classes = _classes(model, state)
    if classes is not None and "classes" not in options and _takes_classes(key):
        model = network_of(key, {**options, "classes": classes}, shape)
    load_state(model, state, where)
    return model.eval()


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Read the number of classes off the tensors that do not fit, all by their first axis."""
    own = model.state_dict()
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if any(state[name].dim() == 0 for name in other):
        return None
    if any(state[name].shape[1:] != own[name].shape[1:] for name in other):
        return None
    rows = {state[name].shape[0] for name in other}
    return rows.pop() if len(rows) == 1 else None


def _takes_classes(key: str) -> bool:
    takes = inspect.signature(MODELS.load(key)[0]).parameters
    return "classes" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
