"""Whether two machines give the same answers to the same inputs."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.runtime.harness import answers, seeded_inputs
from pipeline.runtime.sessions import open_session
from pipeline.runtime.tensors import EngineError


class Agreement(Record):
    """How far the outputs of one file are apart on two machines.

    Attributes:
        inputs: inferences compared.
        equal: whether every bit is the same.
        steps: largest difference of integers, in steps; ``None`` for floats.
        difference: largest difference of floats as a fraction of the largest output;
            ``None`` for integers.
        why: where outputs could not be compared.
    """

    inputs: int
    equal: bool | None
    steps: int | None = None
    difference: float | None = None
    why: str = ""


def agreement(result: Mapping[str, Any], path: Path) -> Agreement | None:
    """Compare what another machine answered with what this one does.

    Args:
        result: of the other machine.
        path: the same file here.

    Returns:
        ``None`` where the other machine gave no answers.

    Raises:
        PareError: the file can't be run here.
    """
    there = result.get("outputs")
    if not there:
        return None
    try:
        session = open_session(path)
        here = answers(session, seeded_inputs(session, int(result["settings"]["seed"])))
    except EngineError as error:
        return Agreement(inputs=0, equal=None, why=str(error))
    return compare(here, there)


def compare(here: Mapping[str, Any], there: Mapping[str, Any]) -> Agreement:
    """Compare two sets of answers to the same inputs, tensor by tensor.

    Raises:
        PareError: they are not answers of the same file.
    """
    ours, theirs = here["tensors"], there["tensors"]
    if [_kind(t) for t in ours] != [_kind(t) for t in theirs]:
        raise PareError(
            "the outputs there have other names, types or sizes than here: it is not the "
            "same file, or one of the engines reads it wrongly."
        )
    equal = all(a["sha256"] == b["sha256"] for a, b in zip(ours, theirs, strict=True))
    steps, difference = _steps(ours, theirs), _difference(ours, theirs)
    return Agreement(inputs=here["inputs"], equal=equal, steps=steps, difference=difference)


def _kind(tensor: Mapping[str, Any]) -> tuple[Any, ...]:
    return tensor["dtype"], tuple(tensor["shape"])


def _steps(ours: Any, theirs: Any) -> int | None:
    pairs = [(a, b) for a, b in _arrays(ours, theirs) if a.dtype.kind in "iu"]
    found = [
        int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0)) for a, b in pairs
    ]
    return max(found, default=None)


def _difference(ours: Any, theirs: Any) -> float | None:
    found = []
    for a, b in _arrays(ours, theirs):
        if a.dtype.kind == "f" and a.size:
            scale = float(np.abs(a.astype(np.float64)).max()) or 1.0
            found.append(
                float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / scale
            )
    return max(found, default=None)


def _arrays(ours: Any, theirs: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the tensors that travelled whole, in pairs."""
    return [
        (_array(a), _array(b))
        for a, b in zip(ours, theirs, strict=True)
        if a["base64"] is not None and b["base64"] is not None
    ]


def _array(tensor: Mapping[str, Any]) -> np.ndarray:
    try:
        content = base64.b64decode(tensor["base64"], validate=True)
        return np.frombuffer(content, np.dtype(tensor["dtype"])).reshape(tensor["shape"])
    except (ValueError, TypeError) as error:
        raise PareError(f"an answer of the other machine is damaged ({error}).") from error
