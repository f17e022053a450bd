"""How much of a file an accelerator computes, and where the rest of it begins."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from pipeline.core.record import Record
from pipeline.core.target import Accelerator
from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo


class Coverage(Record):
    """What of a file runs on an accelerator, counted in operators and in MACs.

    Attributes:
        first_outside: the first operator that does not, and why; empty where all do.
    """

    operators: int
    covered_operators: int
    macs: int
    covered_macs: int
    first_outside: str = ""

    @property
    def operator_pct(self) -> float:
        """Share of the operators, in percent."""
        return 100 * self.covered_operators / self.operators if self.operators else 100.0

    @property
    def mac_pct(self) -> float:
        """Share of the multiply-accumulates, in percent."""
        return 100 * self.covered_macs / self.macs if self.macs else 100.0

    @property
    def pct(self) -> float:
        """The smaller of both shares: a network is as covered as its worst count says."""
        return min(self.operator_pct, self.mac_pct)


def coverage(graph: FileGraph, accelerator: Accelerator | None) -> Coverage | None:
    """Count what of a file an accelerator computes, by its table of operators.

    An accelerator of one partition computes what comes before the first operator outside;
    everything after it runs on the CPU, whatever it is.

    Returns:
        ``None`` where there is no accelerator, or none that says which operators it has.
    """
    if accelerator is None or accelerator.ops is None:
        return None
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    reasons = [_outside(op, accelerator, tensors) for op in graph.ops]
    first = next((step for step, reason in enumerate(reasons) if reason), len(reasons))
    covered = [
        op
        for step, (op, reason) in enumerate(zip(graph.ops, reasons, strict=True))
        if not reason and (step < first or not accelerator.one_partition)
    ]
    outside = f"{graph.ops[first].type}: {reasons[first]}" if first < len(reasons) else ""
    return Coverage(
        operators=len(graph.ops),
        covered_operators=len(covered),
        macs=graph.macs,
        covered_macs=sum(op.macs for op in covered),
        first_outside=outside,
    )


def _outside(op: OpInfo, unit: Accelerator, tensors: Mapping[str, TensorInfo]) -> str:
    """Say why an operator does not run on the accelerator, or nothing where it does."""
    if unit.ops is not None and op.type not in unit.ops.names:
        return f"{unit.name} has no such operator"
    if unit.max_rank is not None:
        rank = int(unit.max_rank.value)
        for name in (*op.inputs, *op.outputs):
            tensor = tensors.get(name)
            if tensor and not tensor.constant and prod(tensor.shape[:-rank]) > 1:
                return f"{tensor.name} has more than {rank} dimensions above one"
    return ""
