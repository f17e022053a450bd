"""Exporters: the finished network as files that devices run.

One file ``to_<format>.py`` of this room is one exporter, its key the format. A file is
made in a scratch folder, loaded and run in its own runtime, and only then moved to
where it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.plan import SchemePlan
from pipeline.core.record import Record
from pipeline.core.signature import Signature

if TYPE_CHECKING:
    from torch import nn

Images = npt.NDArray[np.float32]


class ExportFailure(Record):
    """A file that could not be made.

    Attributes:
        scheme: of the file.
        reason: what went wrong and what to do, in one or two sentences.
        log: everything the converter said.
    """

    scheme: str
    reason: str
    log: Path


class Exporter(Protocol):
    """Writes one network as files of one format.

    Attributes:
        opset: version of the ONNX operators that the network is first written in.
    """

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
        """Write ``model.<scheme>.<format>`` and its side-car for each plan.

        Args:
            model: float32, on the CPU, in evaluation mode, batch norm folded; unchanged.
            plans: of this format, one a scheme.
            signature: what goes in and comes out.
            calibration: normalised images for integer schemes, ``[n, c, h, w]``.
            folder: where finished files land; logs go to ``logs/`` in it.
            timeout_s: after which a converter is killed.

        Returns:
            For each scheme the finished file, or why there is none.

        Raises:
            PareError: the request itself is wrong, whatever the converter.
        """
        ...
