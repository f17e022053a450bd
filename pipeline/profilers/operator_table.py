"""Each kernel that ran beside what the file says of it: MACs, bytes, what bounds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pipeline.core.record import Record
from pipeline.core.target import Target
from pipeline.profilers.file_graph import FileGraph, OpInfo
from pipeline.profilers.predictor import peak_rates

# What onnxruntime appends: layouts, quantization, numbers of its own.
_ADDED = re.compile(r"(_token_\d+|_nchwc|_quant)$")


class OperatorRow(Record):
    """One kernel as the engine ran it.

    Attributes:
        median_ms: measured while the engine's profiler watched.
        share: of the sum of all medians, 0 to 1.
        macs: of the operator it came from; ``None`` where its name is not in the file.
        bytes: activations it reads and writes.
        bound: which of the two takes longer at the target's peak rates.
    """

    name: str
    kernel: str
    median_ms: float
    share: float
    macs: int | None = None
    bytes: int | None = None
    bound: Literal["compute", "memory"] | None = None


def by_kernel_ms(kernels: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the milliseconds of each kernel, all of its calls, the slowest first.

    >>> by_kernel_ms([("Conv", 1.0), ("Add", 2.5), ("Conv", 2.0)])
    {'Conv': 3.0, 'Add': 2.5}
    """
    found: dict[str, float] = {}
    for kernel, ms in kernels:
        found[kernel] = found.get(kernel, 0.0) + ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def operator_rows(
    measured: Mapping[str, Any], graph: FileGraph, target: Target | None, threads: int
) -> tuple[OperatorRow, ...]:
    """Return the kernels, the slowest first, joined with the operators of their names."""
    kernels = measured.get("kernels", [])
    total = sum(kernel["median_ms"] for kernel in kernels) or 1.0
    known = _names(graph)
    rates = peak_rates(graph, target, threads) if target else None
    rows = [
        _row(kernel, total, known.get(_plain(kernel["name"])), rates) for kernel in kernels
    ]
    return tuple(sorted(rows, key=lambda row: -row.median_ms))


def _row(
    kernel: Mapping[str, Any],
    total: float,
    op: OpInfo | None,
    rates: tuple[float | None, float | None] | None,
) -> OperatorRow:
    return OperatorRow(
        name=kernel["name"],
        kernel=kernel["kernel"],
        median_ms=kernel["median_ms"],
        share=kernel["median_ms"] / total,
        macs=op.macs if op else None,
        bytes=op.activation_bytes if op else None,
        bound=_bound(op, rates) if op and rates else None,
    )


def _names(graph: FileGraph) -> dict[str, OpInfo]:
    """Return the operators by their names, and by what they make."""
    by_output = {name: op for op in graph.ops for name in op.outputs}
    return by_output | {op.name: op for op in graph.ops}


def _plain(name: str) -> str:
    """Return a kernel's name without what the engine adds to the operators it rewrites.

    >>> [_plain(n) for n in ("fused gemm_1", "conv_token_18", "relu_nchwc", "conv")]
    ['gemm_1', 'conv', 'relu', 'conv']
    """
    return _ADDED.sub("", name.removeprefix("fused "))


def _bound(
    op: OpInfo, rates: tuple[float | None, float | None]
) -> Literal["compute", "memory"] | None:
    peak, bus = rates
    if not peak or not bus:
        return None
    return "compute" if op.macs / peak >= op.activation_bytes / bus else "memory"
