"""The form of a file: its format, its numbers, its shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.core.target import Constraints, Platform, Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.file_graph import Arithmetic
from pipeline.profilers.limits.check import Check, among, listed


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield the checks of format, dtypes, granularity, shapes and image size."""
    limits = target.constraints
    yield _format(candidate, limits, target.platform)
    yield _dtype(candidate.dtype, limits.dtypes)
    yield from _granularity(candidate, limits)
    yield from _borders(candidate, limits)
    yield from _shapes(candidate, limits)


def _format(candidate: Candidate, limits: Constraints, platform: Platform) -> Check:
    """Check the format, and say where another system of the device doesn't take it."""
    found = candidate.format
    if lacking := platform.lacks(found):
        takes = [name for name in limits.formats if not platform.lacks(name)]
        return Check(
            name="format",
            limit=listed(takes),
            figure=found,
            passed=False,
            why=lacking,
            remedy=f"export to {listed(takes)}, or run a 64-bit system",
        )
    check = among("format", found, limits.formats, f"export to {listed(limits.formats)}")
    refusing = [v for v in platform.variants if found not in v.formats]
    if not check.passed or not refusing:
        return check
    where = listed([variant.docker_platform for variant in refusing])
    reason = f" ({why})" if (why := refusing[0].lacks(found)) else ""
    return check.model_copy(
        update={
            "why": f"{check.why}, though not on {where}{reason}",
            "remedy": f"for that system export to {listed(refusing[0].formats)}",
        }
    )


def _dtype(found: Arithmetic, allowed: Sequence[str]) -> Check:
    """Check what a file computes in; one that mixes int8 with float needs both."""
    needed = ("fp32", "int8") if found == "mixed" else (found,)
    if found == "mixed" and set(needed) <= set(allowed):
        return among("dtype", found, (*allowed, found), "")
    remedy = f"quantize with a scheme that gives {listed(allowed)}"
    return among("dtype", found, allowed, remedy)


def _granularity(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    found, allowed = candidate.graph.int8_granularity, limits.int8_granularity
    if not allowed or not found:
        return
    preferred = allowed[0]
    check = among("int8 granularity", found, allowed, f"quantize the weights {preferred}")
    if check.passed and found != preferred:
        why = f"{check.why}, though {preferred} is preferred"
        check = check.model_copy(update={"why": why, "remedy": f"consider {preferred}"})
    yield check


def _borders(candidate: Candidate, limits: Constraints) -> Iterator[Check]:
    if not limits.io_dtypes:
        return
    graph = candidate.graph
    for side, found in (("input", graph.input_dtypes), ("output", graph.output_dtypes)):
        strange = [dtype for dtype in found if dtype not in limits.io_dtypes]
        yield among(
            f"{side} dtype",
            (strange or [*found, ""])[0],
            limits.io_dtypes,
            f"export with {listed(limits.io_dtypes)} {side}s",
        )


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


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
