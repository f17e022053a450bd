"""Exporters: the finished network as files that devices run.

One file ``to_<key>.py`` of this room is one exporter. Several may write the same format: all
of them do, and evidence elects the file that is offered (``election``). A file is made in a
scratch folder, loaded and run in its own runtime, and only then moved to where it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.plan import SchemePlan
from pipeline.core.record import Record
from pipeline.core.signature import Signature
from pipeline.core.target import Format, Method

if TYPE_CHECKING:
    from torch import nn

SPARSE = "sparse"
"""Variant of a float file that stores its weights without their zeros."""

Images = npt.NDArray[np.float32]


class ExportFailure(Record):
    """A file that could not be made.

    Attributes:
        name: of the plan it was to follow.
        reason: what went wrong and what to do, in one or two sentences.
        log: everything the converter said.
    """

    name: str
    reason: str
    log: Path


class Exporter(Protocol):
    """Writes one network as files of one format.

    Attributes:
        FORMAT: of its files.
        SCHEMES: keys of the schemes it offers.
        METHODS: of taking the ranges of activations that it offers.
        SPARSE: whether it can store the weights of a float file without their zeros.
        MIXES: whether it can leave single layers of an integer file in float.
        opset: version of the ONNX operators that the network is first written in.
    """

    FORMAT: ClassVar[Format]
    SCHEMES: ClassVar[frozenset[str]]
    METHODS: ClassVar[tuple[Method, ...]]
    SPARSE: ClassVar[bool]
    MIXES: ClassVar[bool]

    @property
    def opset(self) -> int: ...  # noqa: D102

    def write(
        self,
        model: nn.Module,
        plans: Sequence[SchemePlan],
        signature: Signature,
        calibration: Images,
        folder: Path,
        timeout_s: float,
    ) -> Mapping[str, Path | ExportFailure]:
        """Write ``model.<name>.<format>`` and its side-car for each plan.

        Args:
            model: float32, on the CPU, in evaluation mode, batch norm folded; unchanged.
            plans: of this format, each of another name.
            signature: what goes in and comes out.
            calibration: images as the file takes them (normalised, or raw pixels where the
                preprocessing is in the network) for integer schemes, ``[n, c, h, w]``.
            folder: where finished files land; logs go to ``logs/`` in it.
            timeout_s: after which a converter is killed.

        Returns:
            For each plan's name the finished file, or why there is none.

        Raises:
            PareError: the request itself is wrong, whatever the converter.
        """
        ...


def offered(exporter: type[Exporter], plan: SchemePlan) -> str | None:
    """Return why an exporter does not offer what a plan asks for, or nothing if it does."""
    if plan.scheme not in exporter.SCHEMES:
        return f"it offers no {plan.scheme}"
    if plan.variant == SPARSE and not exporter.SPARSE:
        return "it offers no sparse weights"
    if plan.kept and not exporter.MIXES:
        return "it cannot keep single layers in float"
    return None
