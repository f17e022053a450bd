"""One exported file as one target sees it: its figures, and how each was obtained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.core.target import Memory, Target
from pipeline.profilers.coverage import Coverage, coverage
from pipeline.profilers.file_graph import Arithmetic, FileGraph
from pipeline.profilers.memory import MemoryPlan, plan
from pipeline.profilers.predictor import bound, predict
from pipeline.profilers.what_fits import Elasticity, is_channels_first

MB = 1e6  # bytes; vendors and budgets count in millions
KB = 1024  # bytes; caches and the memories of controllers are counted so


class GraphFigures(Record):
    """What a verdict needs to know of a file's graph."""

    macs: int
    activation_bytes: int
    weight_bytes: int
    op_types: tuple[str, ...]
    int8_granularity: Literal["per-tensor", "per-channel"] | None
    static_shapes: bool
    batch: int
    input_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]
    input_hw: tuple[int, int] | None
    memory: MemoryPlan
    elasticity: Elasticity = Elasticity()

    @classmethod
    def of(cls, graph: FileGraph) -> GraphFigures:
        """Summarize a file that was read."""
        return cls(
            macs=graph.macs,
            activation_bytes=graph.activation_bytes,
            weight_bytes=graph.weight_bytes,
            op_types=graph.op_types,
            int8_granularity=graph.int8_granularity,
            static_shapes=graph.static_shapes,
            batch=graph.batch,
            input_dtypes=graph.input_dtypes,
            output_dtypes=graph.output_dtypes,
            input_hw=_input_hw(graph),
            memory=plan(graph),
            elasticity=Elasticity.of(graph),
        )


class Candidate(Record):
    """One exported file as one target sees it; top-1 as a fraction, measured on the file.

    Attributes:
        file: its name.
        scheme: the quantization scheme it was made with.
        bytes: its size.
        reference_top1: of the most accurate network seen in training, on the same images.
        compact_top1: of the compact network that the file was made from.
        measured: latency on that very device; its conditions name the ``statistic``, the
            mean where they don't.
        predicted: latency, where the target has a calibration.
        bound: latency nothing can beat, where the target has a peak.
        coverage: what of it runs on the target's accelerator, where that can be told.
        peak_ram: planned arena and weights; what of the runtime is known is in it.
    """

    file: str
    format: Literal["onnx", "tflite"]
    scheme: str
    dtype: Arithmetic
    bytes: int
    graph: GraphFigures
    top1: float | None = None
    reference_top1: float | None = None
    compact_top1: float | None = None
    measured: Measure | None = None
    predicted: Measure | None = None
    bound: Measure | None = None
    coverage: Coverage | None = None
    peak_ram: Measure

    @model_validator(mode="after")
    def _is_what_it_says(self) -> Candidate:
        for basis in ("measured", "predicted", "bound"):
            latency: Measure | None = getattr(self, basis)
            if latency is not None and latency.basis != basis:
                raise ValueError(f"a {latency.basis} latency is no {basis} one")
        return self

    @classmethod
    def of(
        cls,
        path: Path,
        graph: FileGraph,
        target: Target,
        *,
        scheme: str,
        top1: float | None = None,
        reference_top1: float | None = None,
        compact_top1: float | None = None,
        measured: Measure | None = None,
    ) -> Candidate:
        """Describe a file for a target: its figures, its prediction, its bound.

        Args:
            path: the file.
            graph: what was read from it.
            target: the device.
            scheme: the quantization scheme it was made with.
            top1: of the file.
            reference_top1: of the most accurate network seen in training.
            compact_top1: of the compact network.
            measured: latency on that very device, where it was measured.
        """
        figures = GraphFigures.of(graph)
        return cls(
            file=path.name,
            format=graph.format,
            scheme=scheme,
            dtype=graph.dtype,
            bytes=path.stat().st_size,
            graph=figures,
            top1=top1,
            reference_top1=reference_top1,
            compact_top1=compact_top1,
            measured=measured,
            predicted=predict(graph, target),
            bound=_bound(graph, target),
            coverage=coverage(graph, target.accelerator),
            peak_ram=peak_ram(figures, target.memory),
        )


def peak_ram(figures: GraphFigures, memory: Memory | None = None) -> Measure:
    """Return planned arena plus weights in MB of 10^6 bytes.

    Weights in flash take no RAM. What the runtime needs for itself (its code, repacked
    weights) is in it only where the target says how much.

    Args:
        figures: of the file.
        memory: of the target; without it weights are in RAM and the runtime is unknown.
    """
    memory = memory or Memory()
    arena, in_flash = figures.memory.greedy_bytes, memory.flash_mb is not None
    weights = 0 if in_flash else figures.weight_bytes
    runtime = memory.runtime_ram_kb
    runtime_bytes = runtime.value * KB if runtime else 0
    return Measure(
        value=(arena + weights + runtime_bytes) / MB,
        unit="MB",
        basis="predicted",
        conditions={
            "arena_bytes": arena,
            "weight_bytes": weights,
            "runtime_bytes": runtime_bytes,
            "weights_in": "flash" if in_flash else "ram",
            "planner": "greedy by size",
            "runtime_included": runtime is not None,
        },
    )


def _bound(graph: FileGraph, target: Target) -> Measure | None:
    """Return the bound of the unit that a file is meant for.

    Where a file is refused unless an accelerator computes most of it, it may be the faster
    of the two; without a peak of that one nothing bounds the latency.
    """
    processor = bound(graph, target)
    if target.accelerator is None or target.accelerator.on_fail == "cpu":
        return processor
    unit = bound(graph, target, unit="accelerator")
    if processor is None or unit is None:
        return None
    return min(processor, unit, key=lambda measure: measure.value)


def _input_hw(graph: FileGraph) -> tuple[int, int] | None:
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    shape = shapes[graph.inputs[0]] if graph.inputs else ()
    if len(shape) != 4:
        return None
    return (shape[2], shape[3]) if is_channels_first(graph) else (shape[1], shape[2])
