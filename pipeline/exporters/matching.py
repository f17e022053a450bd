"""Which operation of a file computes which layer of the network: the weights tell."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import PareError

Weights = npt.NDArray[np.float32]

_SAME = 1e-5  # of the largest weight; converters fold constants in another order


def match(layers: Mapping[str, Weights], constants: Mapping[str, Weights]) -> dict[str, str]:
    """Return for each layer the name of the constant that holds its weights.

    Formats transpose weights and rename layers, but the numbers stay the same: two tensors
    match if their sorted values do. Layers of equal weights are the same computation.

    Args:
        layers: weights by the layer's name, of any shape.
        constants: weights found in the file, by any name, of any shape.

    Raises:
        PareError: the file holds the weights of a layer nowhere.
    """
    known = {name: np.sort(np.ravel(value)) for name, value in constants.items()}
    return {
        layer: _find(layer, np.sort(np.ravel(own)), known) for layer, own in layers.items()
    }


def _find(layer: str, own: Weights, known: Mapping[str, Weights]) -> str:
    for name, values in known.items():
        if len(values) == len(own) and np.abs(values - own).max() <= _SAME * np.abs(own).max():
            return name
    raise PareError(
        f"the converter changed the weights of {layer!r} beyond recognition, so it cannot be "
        "kept in float. Leave quantize.max_accuracy_drop out, or use ONNX."
    )
