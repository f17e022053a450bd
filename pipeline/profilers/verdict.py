"""Whether a file may go on a device, limit by limit, and which of those that may is best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Literal

from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.core.target import Constraints, Target
from pipeline.profilers.file_graph import Arithmetic, FileGraph
from pipeline.profilers.memory import MemoryPlan, plan
from pipeline.profilers.predictor import bound, predict

_MB = 1e6  # bytes; vendors and budgets count in millions
_NOISE = 1e-9  # of decimal fractions, so that limits stay inclusive


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
        )


class Candidate(Record):
    """One exported file as one target sees it; top-1 as a fraction, measured on the file.

    Attributes:
        file: its name.
        scheme: the quantization scheme it was made with.
        bytes: its size.
        reference_top1: of the most accurate network seen in training, on the same images.
        compact_top1: of the compact network that the file was made from.
        predicted: latency, where the target has a calibration.
        bound: latency nothing can beat, where the target has a peak.
        peak_ram: planned arena and weights; the runtime itself comes on top.
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
    peak_ram: Measure

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
        """Describe a file for a target: its figures, its prediction, its bound."""
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
            bound=bound(graph, target),
            peak_ram=peak_ram(figures),
        )


class Check(Record):
    """One limit. ``passed`` is ``None`` where the figure is not known: never a zero."""

    name: str
    limit: str
    figure: str | None
    passed: bool | None
    why: str
    remedy: str = ""


class Verdict(Record):
    """Every limit of a target, held against one file."""

    candidate: Candidate
    target: str
    checks: tuple[Check, ...]

    @property
    def fits(self) -> bool:
        """Whether no limit is known to be broken."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The limits that are broken."""
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def unknown(self) -> tuple[Check, ...]:
        """The limits that could not be checked."""
        return tuple(check for check in self.checks if check.passed is None)


class Loss(Record):
    """Why a file was not chosen, in one sentence."""

    file: str
    reason: str


class Choice(Record):
    """The file a target gets, or none, and why each of the others lost."""

    file: str | None
    reason: str
    lost: tuple[Loss, ...]


def peak_ram(figures: GraphFigures) -> Measure:
    """Return planned arena plus weights in MB of 10^6 bytes.

    What the runtime needs for itself (its code, repacked weights) is not in it.
    """
    arena = figures.memory.greedy_bytes
    return Measure(
        value=(arena + figures.weight_bytes) / _MB,
        unit="MB",
        basis="predicted",
        conditions={
            "arena_bytes": arena,
            "weight_bytes": figures.weight_bytes,
            "planner": "greedy by size",
            "runtime_included": False,
        },
    )


def judge(candidate: Candidate, target: Target) -> Verdict:
    """Hold a file against every limit a target states. Limits are inclusive."""
    checks = (
        *_form(candidate, target.constraints),
        *_shapes(candidate, target.constraints),
        *_operators(candidate, target.constraints),
        *_sizes(candidate, target),
        *_latency(candidate, target),
        *_accuracy(candidate, target),
    )
    return Verdict(candidate=candidate, target=target.id, checks=checks)


def choose(verdicts: Sequence[Verdict]) -> Choice:
    """Pick the file with the best top-1, then the lowest prediction, then the fewest bytes.

    Only files that break no limit are in the choice; one whose accuracy was not measured
    comes after all that were.
    """
    ranked = sorted((v for v in verdicts if v.fits), key=lambda v: _rank(v.candidate))
    if not ranked:
        lost = tuple(_misfit(verdict) for verdict in verdicts)
        return Choice(file=None, reason="no file fits the target.", lost=lost)
    best = ranked[0].candidate
    lost = tuple(
        Loss(file=v.candidate.file, reason=_behind(v.candidate, best))
        if v.fits
        else _misfit(v)
        for v in verdicts
        if v is not ranked[0]
    )
    return Choice(file=best.file, reason=_lead(best, len(ranked)), lost=lost)


def _form(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    graph = candidate.graph
    yield _among(
        "format",
        candidate.format,
        limits.formats,
        f"export to {_list(limits.formats)}",
    )
    yield _dtype(candidate.dtype, limits.dtypes)
    if limits.int8_granularity and graph.int8_granularity:
        preferred = limits.int8_granularity[0]
        check = _among(
            "int8 granularity",
            graph.int8_granularity,
            limits.int8_granularity,
            f"quantize the weights {preferred}",
        )
        if check.passed and graph.int8_granularity != preferred:
            why = f"{check.why}, though {preferred} is preferred"
            check = check.model_copy(update={"why": why, "remedy": f"consider {preferred}"})
        yield check
    if limits.io_dtypes:
        for side, found in (("input", graph.input_dtypes), ("output", graph.output_dtypes)):
            strange = [dtype for dtype in found if dtype not in limits.io_dtypes]
            yield _among(
                f"{side} dtype",
                (strange or [*found, ""])[0],
                limits.io_dtypes,
                f"export with {_list(limits.io_dtypes)} {side}s",
            )


def _dtype(found: Arithmetic, allowed: Sequence[str]) -> Check:
    """Check what a file computes in; one that mixes int8 with float needs both."""
    needed = ("fp32", "int8") if found == "mixed" else (found,)
    if found == "mixed" and set(needed) <= set(allowed):
        return _among("dtype", found, (*allowed, found), "")
    remedy = f"quantize with a scheme that gives {_list(allowed)}"
    return _among("dtype", found, allowed, remedy)


def _shapes(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    graph = candidate.graph
    if limits.static_shapes:
        fixed = graph.static_shapes
        yield Check(
            name="static shapes",
            limit="fixed",
            figure="fixed" if fixed else "open",
            passed=fixed,
            why="the file fixes every size" if fixed else "the file leaves a size open",
            remedy="" if fixed else "export with a fixed batch and input size",
        )
    if limits.batch is not None:
        passed = graph.batch == limits.batch
        yield Check(
            name="batch",
            limit=str(limits.batch),
            figure=str(graph.batch),
            passed=passed,
            why=f"one inference takes {graph.batch} image(s)",
            remedy="" if passed else f"export with batch {limits.batch}",
        )
    if limits.input_max_hw and graph.input_hw:
        fits = all(a <= b for a, b in zip(graph.input_hw, limits.input_max_hw, strict=True))
        yield Check(
            name="input size",
            limit=_by(limits.input_max_hw),
            figure=_by(graph.input_hw),
            passed=fits,
            why=f"the input is {_by(graph.input_hw)} pixels",
            remedy="" if fits else f"use images of at most {_by(limits.input_max_hw)} pixels",
        )


def _operators(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    found = candidate.graph.op_types
    if not limits.ops.deny and limits.ops.allow is None:
        return
    allowed = limits.ops.allow
    refused = [
        op
        for op in found
        if op in limits.ops.deny or (allowed is not None and op not in allowed)
    ]
    yield Check(
        name="operators",
        limit=f"none of {_list(limits.ops.deny)}" if allowed is None else _list(allowed),
        figure=_list(refused or found),
        passed=not refused,
        why=f"the target refuses {_list(refused)}"
        if refused
        else "the target takes all of them",
        remedy=f"replace {_list(refused)} in the network" if refused else "",
    )


def _sizes(candidate: Candidate, target: Target) -> Iterator[Check]:
    budgets, memory = target.budgets, target.memory
    weighs, ram = candidate.bytes / _MB, candidate.peak_ram.value
    arena = candidate.graph.memory.greedy_bytes / _MB
    smaller = "keep fewer weights, or store them in fewer bits"
    narrower = f"make the network narrower where it peaks ({candidate.graph.memory.where})"
    storage, room = target.storage.model_max_mb, memory.budget_mb
    rows = (
        ("file size (storage)", storage.value if storage else None, weighs, smaller),
        ("file size (budget)", budgets.model_mb if budgets else None, weighs, smaller),
        ("activations", target.constraints.max_peak_activation_mb, arena, narrower),
        ("peak RAM (budget)", budgets.peak_ram_mb if budgets else None, ram, narrower),
        ("peak RAM (device)", room.value if room else None, ram, narrower),
    )
    for name, limit, figure, remedy in rows:
        if limit is not None:
            yield _at_most(name, figure, limit, "MB", remedy)


def _latency(candidate: Candidate, target: Target) -> Iterator[Check]:
    limit = target.budgets.latency_p90_ms if target.budgets else None
    if limit is None:
        return
    faster = "cut more MACs, or choose a faster dtype the target allows"
    predicted, least = candidate.predicted, candidate.bound
    if predicted is not None:
        worst = predicted.spread[1] if predicted.spread else predicted.value
        check = _at_most("latency", worst, limit, "ms", faster)
        why = f"predicted {predicted}; its upper end counts: {check.why}"
        yield check.model_copy(update={"why": why})
    elif least is not None and least.value > limit:
        check = _at_most("latency", least.value, limit, "ms", faster)
        why = f"no calibration, but even the lower bound breaks the limit: {check.why}"
        yield check.model_copy(update={"why": why})
    else:
        yield Check(
            name="latency",
            limit=f"{limit:g} ms",
            figure=None if least is None else f"at least {least.value:.3g} ms",
            passed=None,
            why="no calibration for this runtime and dtype"
            + ("" if least is None else "; a lower bound below the limit proves nothing"),
            remedy="measure on the device",
        )


def _accuracy(candidate: Candidate, target: Target) -> Iterator[Check]:
    limit = target.budgets.accuracy_drop_pct if target.budgets else None
    if limit is None:
        return
    top1, trained = candidate.top1, candidate.reference_top1
    if top1 is None or trained is None:
        yield Check(
            name="accuracy drop",
            limit=f"{limit:g} points",
            figure=None,
            passed=None,
            why="the accuracy of the file or of its network was not measured",
            remedy="measure both on the same images",
        )
        return
    cause, remedy = _cause(candidate, top1, trained)
    check = _at_most("accuracy drop", (trained - top1) * 100, limit, "points", remedy)
    why = f"{check.why}; top-1 {top1:.2%}, of the best network in training {trained:.2%}"
    yield check.model_copy(update={"why": why if check.passed else f"{why}{cause}"})


def _cause(candidate: Candidate, top1: float, trained: float) -> tuple[str, str]:
    """Return whether the pruning or the file cost more accuracy, and what helps against it."""
    pruned = "keep more weights or train longer"
    exact, compact = candidate.dtype == "fp32", candidate.compact_top1
    if compact is None:
        both = "calibrate on more images, quantize more gently, or keep more weights"
        return "", pruned if exact else both
    by_pruning, by_file = (trained - compact) * 100, (compact - top1) * 100
    step = "export" if exact else "quantization"
    if by_pruning >= by_file:
        return f"; pruning cost {by_pruning:.3g} points, {step} {by_file:.3g}", pruned
    remedy = "calibrate on more images or quantize more gently"
    if exact:
        remedy = "lower export.max_float_difference"
    return f"; {step} cost {by_file:.3g} points, pruning {by_pruning:.3g}", remedy


def _among(name: str, found: str, allowed: Sequence[str], remedy: str) -> Check:
    passed = found in allowed
    verb = "is" if passed else "is not"
    return Check(
        name=name,
        limit=_list(allowed),
        figure=found,
        passed=passed,
        why=f"{found or 'nothing'} {verb} among {_list(allowed)}",
        remedy="" if passed else remedy,
    )


def _at_most(name: str, figure: float, limit: float, unit: str, remedy: str) -> Check:
    passed = figure <= limit + _NOISE
    over = f", {figure - limit:.3g} {unit} over" if not passed else ""
    return Check(
        name=name,
        limit=f"{limit:g} {unit}",
        figure=f"{figure:.3g} {unit}",
        passed=passed,
        why=f"{figure:.3g} {unit} against a limit of {limit:g} {unit}{over}",
        remedy="" if passed else remedy,
    )


def _rank(candidate: Candidate) -> tuple[float, float, int, str]:
    top1 = -inf if candidate.top1 is None else candidate.top1
    ms = inf if candidate.predicted is None else candidate.predicted.value
    return -top1, ms, candidate.bytes, candidate.file


def _misfit(verdict: Verdict) -> Loss:
    check, more = verdict.failed[0], len(verdict.failed) - 1
    others = f" (and {more} more)" if more else ""
    return Loss(file=verdict.candidate.file, reason=f"{check.name}: {check.why}{others}.")


def _behind(loser: Candidate, best: Candidate) -> str:
    """Say by which of the three criteria a file that fits lost."""
    if loser.top1 != best.top1:
        if loser.top1 is None or best.top1 is None:
            return f"its accuracy was not measured, that of {best.file} was."
        points = (best.top1 - loser.top1) * 100
        return f"top-1 {loser.top1:.2%} is {points:.2f} points below that of {best.file}."
    slow, fast = loser.predicted, best.predicted
    if slow is None and fast is not None:
        return f"as accurate as {best.file}, but its latency can't be predicted."
    if slow is not None and fast is not None and slow.value > fast.value:
        times = f"{slow.value:.3g} ms, not {fast.value:.3g}"
        return f"as accurate as {best.file}, but predicted at {times}."
    if loser.bytes > best.bytes:
        return f"as good as {best.file}, but {loser.bytes - best.bytes:,} bytes larger."
    return f"equal to {best.file} in everything that counts; the name decided."


def _lead(best: Candidate, fitting: int) -> str:
    if fitting == 1:
        return "the only file that fits the target."
    top1 = "accuracy not measured" if best.top1 is None else f"top-1 {best.top1:.2%}"
    return f"best of {fitting} files that fit: {top1}, {best.bytes:,} bytes."


def _input_hw(graph: FileGraph) -> tuple[int, int] | None:
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    shape = shapes[graph.inputs[0]] if graph.inputs else ()
    if len(shape) != 4:
        return None
    return (shape[1], shape[2]) if graph.format == "tflite" else (shape[2], shape[3])


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
