"""Which files a run has to make: what any target takes, without repetition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from pipeline.core.errors import PareError
from pipeline.core.plan import ANYTHING, Border, Demand, Integer
from pipeline.core.record import Record
from pipeline.core.target import Constraints, Dtype, Format, Target

BASIC: tuple[Dtype, ...] = ("fp32", "fp16", "dynamic", "int8")
"""What is made where no target narrows it down."""

_X86 = ("amd64", "x86_64", "x86-64", "x86", "i386", "i686")
# First onnxruntime that implements an opset: docs/Versioning.md of onnxruntime.
_OPSETS = {
    (1, 8): 14, (1, 10): 15, (1, 12): 17, (1, 14): 18, (1, 15): 19, (1, 17): 20, (1, 18): 21,
    (1, 21): 22, (1, 23): 23,
}  # fmt: skip


class Wanted(Record):
    """One file that at least one target takes, and what is asked of its integers."""

    format: Format
    dtype: Dtype
    demand: Demand = ANYTHING


def wanted(targets: Sequence[Target], extra: Sequence[Dtype] = ()) -> list[Wanted]:
    """Return the files that the targets take, in a fixed order.

    Targets that ask for the same share a file, and what one leaves open any file will do.
    What is wanted beside theirs is made in every format that any of them takes; without a
    target in every format.

    Args:
        targets: the devices.
        extra: more dtypes, whether a target takes them or not.
    """
    found: dict[tuple[Format, Dtype], list[Demand]] = {}
    for format_, dtype, limits in _pairs(targets, extra):
        demands = found.setdefault((format_, dtype), [])
        demand = _demand(limits, format_, dtype)
        if not any(_serves(one, demand) for one in demands):
            demands.append(demand)
    return [
        Wanted(format=format_, dtype=dtype, demand=demand)
        for format_ in sorted(get_args(Format))
        for dtype in get_args(Dtype)
        for demand in found.get((format_, dtype), [])
    ]


class _Limits(Record):
    """What one target says of integers."""

    constraints: Constraints
    arch: str | None


def _pairs(
    targets: Sequence[Target], extra: Sequence[Dtype]
) -> Iterator[tuple[Format, Dtype, _Limits | None]]:
    """Yield what each target takes, those that ask for scales first, then the extras."""
    formats: dict[Format, None] = {}
    for target in sorted(
        targets, key=lambda t: (t.constraints.int8_granularity is None, t.id)
    ):
        limits = _Limits(constraints=target.constraints, arch=target.platform.arch)
        for format_ in target.constraints.formats:
            formats[format_] = None
            for dtype in target.constraints.dtypes:
                yield format_, dtype, limits
    for format_ in formats or get_args(Format):
        for dtype in extra if targets else (*BASIC, *extra):
            yield format_, dtype, None


def _demand(limits: _Limits | None, format_: Format, dtype: Dtype) -> Demand:
    """Return what one target asks of a file, its first preference where it takes several."""
    if limits is None or dtype not in ("int8", "int4"):
        return ANYTHING
    granularities = limits.constraints.int8_granularity
    return Demand(
        granularity=granularities[0] if granularities and dtype == "int8" else None,
        io_dtype=_io_dtype(limits.constraints, format_),
        activations=_activations(limits, format_) if dtype == "int8" else None,
    )


def _io_dtype(limits: Constraints, format_: Format) -> Border | None:
    """Return the border type of a TFLite file: integers where the target takes them."""
    if format_ == "onnx" or limits.io_dtypes is None:
        return None
    return next((dtype for dtype in get_args(Border) if dtype in limits.io_dtypes), None)


def _activations(limits: _Limits, format_: Format) -> Integer | None:
    """Return what the processor multiplies fastest; TFLite knows signed bytes only."""
    if format_ != "onnx" or limits.arch is None:
        return None
    return "uint8" if limits.arch.lower() in _X86 else "int8"


def _serves(made: Demand, asked: Demand) -> bool:
    """Tell whether a file made for one demand is what another one asks for.

    Scales a channel are the better file, so that a scale a weight is only for who asks for it.
    """
    return (
        (made.granularity or "per-channel") == (asked.granularity or "per-channel")
        and asked.io_dtype in (None, made.io_dtype or "int8")
        and asked.activations in (None, made.activations or "int8")
    )


def batch(targets: Sequence[Target]) -> int | None:
    """Return the batch of ONNX files: fixed where any target asks for that, one by default.

    TFLite files take one image a call, whatever their targets say.

    Raises:
        PareError: two targets ask for different batches.
    """
    asked = {
        t.constraints.batch or 1: t.id
        for t in targets
        if t.constraints.static_shapes or t.constraints.batch
    }
    if len(asked) > 1:
        raise PareError(
            f"targets {' and '.join(asked.values())} ask for different batches "
            f"({' and '.join(map(str, asked))}). Run them apart."
        )
    return next(iter(asked), None if targets else 1)


def opset(targets: Sequence[Target], asked: int) -> int:
    """Return the newest ONNX opset, at most ``asked``, that every target's runtime runs.

    A target that doesn't say which onnxruntime it has takes what is asked for.

    Source:
        onnxruntime, docs/Versioning.md, "ONNX opset compatibility".
    """
    runtimes = [t.runtime_for("onnx") for t in targets if "onnx" in t.constraints.formats]
    versions = [r.version for r in runtimes if r is not None and r.version]
    return min([asked, *map(_newest_opset, versions)])


def _newest_opset(version: str) -> int:
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    older = [opset_ for since, opset_ in _OPSETS.items() if since <= parts]
    return max(older, default=17)
