"""Which files a run has to make: one per (format, dtype) that any target takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import Dtype, Format, Granularity, Target


class Wanted(Record):
    """One file that at least one target takes.

    Attributes:
        granularity: of integer weights, as the targets prefer; ``None`` leaves it open.
    """

    format: Format
    dtype: Dtype
    granularity: Granularity | None = None


def wanted(targets: Sequence[Target]) -> list[Wanted]:
    """Return the files that the targets take, without repetition, in a fixed order.

    Without any target every format and dtype is wanted.

    Raises:
        PareError: two targets ask for integer weights of different granularity.
    """
    if not targets:
        return [Wanted(format=f, dtype=d) for f in get_args(Format) for d in get_args(Dtype)]
    pairs = {
        (f, d) for t in targets for f in t.constraints.formats for d in t.constraints.dtypes
    }
    found = [
        Wanted(
            format=f, dtype=d, granularity=_granularity(targets, f) if d == "int8" else None
        )
        for f, d in pairs
    ]
    return sorted(found, key=lambda w: (w.format, get_args(Dtype).index(w.dtype)))


def _granularity(targets: Sequence[Target], file_format: Format) -> Granularity | None:
    """Return the one granularity that every taker of int8 in this format accepts."""
    takers = [
        t
        for t in targets
        if file_format in t.constraints.formats and "int8" in t.constraints.dtypes
    ]
    strict = {
        t.constraints.int8_granularity[0]: t.id
        for t in takers
        if t.constraints.int8_granularity and len(t.constraints.int8_granularity) == 1
    }
    if len(strict) > 1:
        raise PareError(
            f"targets {' and '.join(strict.values())} ask for different granularities of int8 "
            "weights. Run them apart."
        )
    return next(iter(strict), None)


def batch(targets: Sequence[Target]) -> int | None:
    """Return the batch of the files: one where any target asks for static shapes."""
    static = [t.constraints for t in targets if t.constraints.static_shapes]
    if not static:
        return None if targets else 1
    return max((limits.batch or 1) for limits in static)
