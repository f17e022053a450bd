"""What a file takes: storage, flash and RAM, and what would fit where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, prod

from pipeline.core.target import Target
from pipeline.profilers.candidate import KB, MB, Candidate
from pipeline.profilers.limits.check import Check, at_most, keeps, share_over
from pipeline.profilers.what_fits import largest_side, narrower_dtype

_PADDED = 1.05  # converters pad an image before a stride, which takes another tensor


def checks(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Yield the checks of file size, flash, activations and peak RAM, in MB of 10^6 bytes."""
    yield from _stored(candidate, target)
    yield from _in_ram(candidate, target)


def _stored(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Check what the file takes on a disk, and its weights in flash beside the code."""
    storage, budgets, memory = target.storage.model_max_mb, target.budgets, target.memory
    rows: list[tuple[str, float | None, float]] = [
        ("file size (storage)", storage.value if storage else None, candidate.bytes),
        ("file size (budget)", budgets.model_mb if budgets else None, candidate.bytes),
    ]
    if memory.flash_mb:
        code = memory.runtime_flash_kb.value * KB if memory.runtime_flash_kb else 0.0
        rows.append(("flash", memory.flash_mb.value, candidate.graph.weight_bytes + code))
    for name, limit, takes in rows:
        if limit is not None:
            remedy = _fewer_bytes(candidate, target, takes, limit * MB)
            yield at_most(name, takes / MB, limit, "MB", remedy)


def _fewer_bytes(candidate: Candidate, target: Target, takes: float, room: float) -> str:
    """Say which number format would fit, or how many weights would have to go."""
    weights, allowed = candidate.graph.weight_bytes, target.constraints.dtypes
    beside, remedies = max(0, ceil(takes - weights)), []
    if narrower := narrower_dtype(candidate.dtype, allowed, beside, weights, room):
        name, size = narrower
        remedies.append(f"{name} would fit (about {size / MB:.3g} MB)")
    if weights > room - beside > 0:
        remedies.append(f"keep {share_over(weights, room - beside)} fewer weights")
    return ", or ".join(remedies) or "even without weights it is too large"


def _in_ram(candidate: Candidate, target: Target) -> Iterator[Check]:
    """Check the planned arena, and all that is in RAM with it."""
    arena, ram = candidate.graph.memory.greedy_bytes, candidate.peak_ram.value
    budgets, room = target.budgets, target.memory.budget_mb
    rows = (
        ("activations", target.constraints.max_peak_activation_mb, arena / MB),
        ("peak RAM (budget)", budgets.peak_ram_mb if budgets else None, ram),
        ("peak RAM (device)", room.value if room else None, ram),
    )
    for name, limit, figure in rows:
        if limit is None:
            continue
        remedy = ""
        if not keeps(figure, limit):
            remedy = _less_ram(candidate, target, figure * MB, limit * MB)
        check = at_most(name, figure, limit, "MB", remedy)
        yield check.model_copy(update={"why": f"{check.why}{_parts(candidate, name)}"})


def _parts(candidate: Candidate, name: str) -> str:
    """Say what peak RAM is made of."""
    if name == "activations":
        return f"; they peak at {candidate.graph.memory.where}"
    parts = candidate.peak_ram.conditions
    arena = candidate.graph.memory.greedy_bytes / MB
    kept = [f"{arena:.3g} MB of activations"]
    for key, what in (("weight_bytes", "weights"), ("runtime_bytes", "the runtime")):
        if parts.get(key):
            kept.append(f"{parts[key] / MB:.3g} MB of {what}")
    flash = ", weights in flash" if parts.get("weights_in") == "flash" else ""
    return f"; {' and '.join(kept)}{flash}"


def _less_ram(candidate: Candidate, target: Target, figure: float, limit: float) -> str:
    """Say where the peak is, and which dtype, image or stride would fit; all in bytes."""
    graph = candidate.graph
    fixed = figure - graph.memory.greedy_bytes  # what is there beside the activations
    # Of the activations alone nothing else counts, and weights in flash take no RAM.
    weights = min(int(candidate.peak_ram.conditions.get("weight_bytes", 0)), round(fixed))
    beside, fitting = ceil(figure - weights), []
    allowed = target.constraints.dtypes
    if narrower := narrower_dtype(candidate.dtype, allowed, beside, weights, limit):
        name, size = narrower
        fitting.append(f"{name} would fit (about {size / MB:.3g} MB)")
    fitting += _smaller_arenas(candidate, fixed, limit - fixed)
    if not fitting and limit <= fixed:
        what = "weights" if weights else "runtime"
        return f"even without activations it is too much: the {what} alone must shrink"
    if not fitting:
        share = share_over(graph.memory.greedy_bytes, limit - fixed)
        fitting = [f"make the network narrower where it peaks, by {share}"]
    over = 100 * (figure / limit - 1)
    return f"{over:.3g} % over at {graph.memory.where}: {', or '.join(fitting)}"


def _smaller_arenas(candidate: Candidate, fixed: float, room: float) -> Iterator[str]:
    """Yield the image and the stride whose activations would fit into ``room`` bytes."""
    graph, elastic = candidate.graph, candidate.graph.elasticity
    arena, size = graph.memory.greedy_bytes, graph.input_hw
    side = largest_side(size, arena, room) if size and elastic.resizable else None
    if size and side:
        needs = (arena * side**2 / prod(size) + fixed) / MB
        yield f"input {side} x {side} would fit (about {needs:.3g} MB)"
    strided = elastic.strided_arena_bytes
    if strided is not None and keeps(strided * _PADDED, room):
        needs = (strided + fixed) / MB
        yield f"stride 2 at {elastic.strided} would fit (about {needs:.3g} MB)"
