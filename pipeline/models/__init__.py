"""Networks by name: the anchors of the pruning literature, torchvision's, and the user's own.

A model is a function whose name is its key: it takes ``classes`` (width of the output),
``channels`` and ``size`` (of the square input image, pixels) and its own keyword options,
and returns a network from ``[n, channels, size, size]`` to logits ``[n, classes]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import PareError, did_you_mean
from pipeline.core.plugins import MODELS


def build(
    key: str, options: dict[str, Any], *, classes: int, channels: int, size: int, seed: int
) -> nn.Module:
    """Build a network with freshly drawn weights.

    Args:
        key: a listed model, ``torchvision:NAME`` or ``package.module:function``.
        options: the model's own keyword options from the recipe.
        classes: width of the logits.
        channels: of the input image.
        size: height and width of the input image in pixels.
        seed: of the initial weights; the caller's random state is left as it was.

    Raises:
        PareError: unknown model or option, or the function returns no network.
    """
    function, argument = MODELS.load(key)
    shape = {"classes": classes, "channels": channels, "size": size}
    accepted = inspect.signature(function).parameters
    variadic = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    own = [name for name in accepted if name not in (*shape, "name", "options")]
    for option in options:
        if option not in own and not variadic:
            raise PareError(
                f"model {key!r} has no option {option!r}. {did_you_mean(option, own)}"
                f"It takes: {', '.join(own) or 'none'}."
            )
    positional = [] if argument is None else [argument]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = function(*positional, **shape, **options)
        except (TypeError, ValueError) as error:
            raise PareError(f"model {key!r} cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise PareError(
            f"model {key!r} returned {type(model).__name__}, not a torch.nn.Module."
        )
    return model


def check_sizes(**sizes: object) -> None:
    """Refuse an option that has to count channels and cannot.

    Raises:
        ValueError: one of them is no whole number of at least 1; names it.
    """
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} = {value!r}: a whole number of at least 1 is wanted")


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Load trained weights into ``model`` (safetensors, or a state dict without pickle).

    Raises:
        PareError: the file is missing or unreadable, or it holds another architecture;
            names the first tensors that differ.
    """
    load_state(model, read_state(path), path)


def load_state(model: nn.Module, state: Mapping[str, torch.Tensor], where: Path) -> None:
    """Load weights into a network of the same architecture.

    Args:
        model: takes the weights.
        state: by name; what counts the batches of a training may be missing.
        where: they come from, for the message.

    Raises:
        PareError: it is of another architecture; names the first tensors that differ.
    """
    own = model.state_dict()
    # Checkpoints of old versions of torch lack it.
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    problems = [f"{name} is missing" for name in sorted(own.keys() - state.keys())]
    problems += [f"{name} is not in the network" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name} is {list(state[name].shape)}, the network has {list(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise PareError(
            f"checkpoint {where} is of another architecture: {'; '.join(problems[:3])}{more}. "
            "Choose the model it was trained with, and its options (classes, width, ...)."
        )
    model.load_state_dict(state)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Read tensors by name from safetensors or a ``torch.save`` file, weights only.

    Raises:
        PareError: missing, unreadable, or a file that holds more than tensors.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise PareError(f"no checkpoint at {path}. Check model.checkpoint or train.teacher.")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise PareError(
            f"checkpoint {path} cannot be read: {reason}. It must be safetensors or a plain "
            "state dict (tensors only; pickled modules are refused)."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise PareError(f"checkpoint {path} is not a state dict of tensors.")
    return state
