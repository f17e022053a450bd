"""A checkpoint that some tool pruned -> plain weights, its masks multiplied in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import PareError, did_you_mean

State = dict[str, Tensor]

_SUFFIXES = (".safetensors", ".pt", ".pth")
#: Keys under which training scripts put the state dict beside their other things.
_NESTED = ("state_dict", "model", "model_state_dict")
_PARALLEL = "module."  # what DataParallel puts before every name


def read_tensors(path: Path) -> State:
    """Read tensors by name: safetensors, or a state dict that ``torch.save`` wrote.

    The state dict may lie under ``state_dict``, ``model`` or ``model_state_dict``, and its
    names may start with the ``module.`` of ``DataParallel``.

    Raises:
        PareError: the file is missing or unreadable, or holds more than tensors; nothing
            in it is run.
    """
    if path.suffix not in _SUFFIXES:
        raise PareError(f"{path} is no {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]} file.")
    if not path.is_file():
        raise PareError(f"no file at {path}. Check the path.")
    found = _safetensors(path) if path.suffix == ".safetensors" else _torch_saved(path)
    for key in _NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not found:
        raise PareError(f"{path} holds no tensors by name. Save `model.state_dict()`.")
    odd = next((key for key, value in found.items() if not isinstance(value, Tensor)), None)
    if odd is not None:
        raise PareError(
            f"{path}: {odd!r} is no tensor but {type(found[odd]).__name__}. Save "
            "`model.state_dict()` alone, or under the key 'state_dict'."
        )
    parallel = all(key.startswith(_PARALLEL) for key in found)
    return {key.removeprefix(_PARALLEL) if parallel else key: found[key] for key in found}


def pruned_state(checkpoint: Path, *, zeros: bool = False, masks: Path | None = None) -> State:
    """Return the weights of a checkpoint with everything that was pruned set to zero.

    What ``torch.nn.utils.prune`` leaves (``X_orig`` and ``X_mask``) becomes ``X``.

    Args:
        checkpoint: the file.
        zeros: the zeros in its weights are the pruning.
        masks: a file of 0/1 tensors by parameter name, multiplied in.

    Raises:
        PareError: a file cannot be read, a mask fits no weight or holds other values than
            0 and 1, a weight is not finite, or nothing says what was pruned; names the key.
    """
    if zeros and masks:
        raise PareError(
            "--zeros and --masks are two answers to one question. Give --masks alone: zeros "
            "in the weights count as well."
        )
    state, carries_masks = _without_prune(read_tensors(checkpoint), checkpoint)
    if not (zeros or masks or carries_masks):
        raise PareError(
            f"nothing says what is pruned in {checkpoint}. Give --zeros if it is the weights "
            "that are zero, or --masks FILE with tensors of 0 and 1 by parameter name."
        )
    for name, mask in (read_tensors(masks) if masks else {}).items():
        if name not in state:
            raise PareError(
                f"{masks}: {name!r} is no parameter of {checkpoint}. "
                f"{did_you_mean(name, state)}Name masks as `model.named_parameters()` does."
            )
        state[name] = _masked(state[name], mask, f"{masks}: {name!r}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise PareError(
                f"{checkpoint}: {name!r} holds values that are not finite, with which no "
                "outputs can be compared. Take an earlier checkpoint of the training."
            )
    return state


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PareError(f"{path} cannot be read: {error}. Copy or save it again.") from error


def _torch_saved(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            raise PareError(
                f"{path} holds more than tensors (a pickled network, perhaps), and reading "
                "that can run any code. Where you trust its source, load it there, save "
                "`torch.save(model.state_dict(), 'weights.pt')` and give that file."
            ) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PareError(f"{path} cannot be read: {reason}. Save it again.") from error


def _without_prune(state: State, where: Path) -> tuple[State, bool]:
    """Apply the masks of ``torch.nn.utils.prune``; tell whether there were any."""
    found = dict(state)
    pruned = [
        name.removesuffix("_orig")
        for name in state
        if name.endswith("_orig") and f"{name.removesuffix('_orig')}_mask" in state
    ]
    for name in pruned:
        mask = found.pop(f"{name}_mask")
        found[name] = _masked(found.pop(f"{name}_orig"), mask, f"{where}: '{name}_mask'")
    return found, bool(pruned)


def _masked(weight: Tensor, mask: Tensor, where: str) -> Tensor:
    if mask.shape != weight.shape:
        raise PareError(
            f"{where} is {list(mask.shape)}, its parameter {list(weight.shape)}. A mask has "
            "the shape of what it masks."
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise PareError(
            f"{where} holds other values than 0 and 1. A mask says what is kept; multiply "
            "soft ones into the weights and use --zeros."
        )
    return weight.masked_fill(mask == 0, 0)
