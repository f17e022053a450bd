"""How much memory the activations of a file need, planned as its runtime plans it."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.core.record import Record
from pipeline.profilers.file_graph import FileGraph, OpInfo

ALIGNMENT = 64  # bytes, TFLite's for tensors in its arena


class Lifetime(Record):
    """One tensor, and the first and last step at which it must exist."""

    name: str
    bytes: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both must exist at some step."""
        return self.first <= other.last and other.first <= self.last


class MemoryPlan(Record):
    """Three answers to how much memory activations take, weights not counted.

    Attributes:
        liveness_bytes: what no plan that keeps whole tensors can go below.
        greedy_bytes: what the arena of TFLite's planner takes.
        naive_bytes: every tensor in a place of its own.
        in_place_bytes: liveness if depthwise convolutions overwrite their input, which
            some compilers for microcontrollers do.
        where: operation at which the liveness is highest.
    """

    liveness_bytes: int
    greedy_bytes: int
    naive_bytes: int
    in_place_bytes: int
    where: str


def plan(graph: FileGraph) -> MemoryPlan:
    """Plan the activations of a file.

    Vendor compilers have been seen up to 30 % above the liveness, for buffers of inputs
    and scratch; a runtime's own state comes on top.

    Source:
        Greedy by size, Pisarchyk & Lee 2020 (arXiv:2001.03288), algorithm 3, and the
        arena planner of TFLite.
    """
    lives = lifetimes(graph)
    live = _live_bytes(lives, len(graph.ops))
    saved = [_overwritable(op, step, lives) for step, op in enumerate(graph.ops)]
    peak = max(live, default=0)
    return MemoryPlan(
        liveness_bytes=peak,
        greedy_bytes=arena_bytes(lives, greedy_offsets(lives)),
        naive_bytes=sum(life.bytes for life in lives),
        in_place_bytes=max((a - b for a, b in zip(live, saved, strict=True)), default=0),
        where=_name(graph.ops[live.index(peak)]) if live else "",
    )


def lifetimes(graph: FileGraph) -> tuple[Lifetime, ...]:
    """Return when each computed tensor must exist, in steps of one operation.

    Inputs exist from the start until they are last read, outputs from where they are made
    to the end. A result nobody reads exists while it is made.
    """
    sizes = graph.sizes()
    end = max(len(graph.ops) - 1, 0)
    first = {name: 0 for name in graph.inputs if name in sizes}
    last = dict(first)
    for step, op in enumerate(graph.ops):
        for name in (*op.inputs, *op.outputs):
            if name in sizes:
                first.setdefault(name, step)
                last[name] = step
    last.update({name: end for name in graph.outputs if name in first})
    return tuple(
        Lifetime(name=name, bytes=sizes[name], first=first[name], last=last[name])
        for name in first
        if sizes[name] > 0
    )


def greedy_offsets(lives: Iterable[Lifetime]) -> dict[str, int]:
    """Place tensors in one arena, largest first, each in the tightest gap it fits in.

    Of equals the one that is needed first goes first.

    Returns:
        The offset of each tensor in bytes, a multiple of :data:`ALIGNMENT`.
    """
    offsets: dict[str, int] = {}
    placed: list[Lifetime] = []
    for life in sorted(lives, key=lambda life: (-life.bytes, life.first)):
        busy = sorted(
            (offsets[other.name], _aligned(offsets[other.name] + other.bytes))
            for other in placed
            if other.overlaps(life)
        )
        offsets[life.name] = _tightest_gap(busy, life.bytes)
        placed.append(life)
    return offsets


def arena_bytes(lives: Iterable[Lifetime], offsets: dict[str, int]) -> int:
    """Return the end of the tensor that lies furthest back."""
    return max((offsets[life.name] + life.bytes for life in lives), default=0)


def _tightest_gap(busy: list[tuple[int, int]], wanted: int) -> int:
    """Return the start of the smallest gap of at least ``wanted`` bytes, or the end."""
    end, best, best_room = 0, None, None
    for start, stop in busy:
        room = start - end
        if room >= wanted and (best_room is None or room < best_room):
            best, best_room = end, room
        end = max(end, stop)
    return end if best is None else best


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def _live_bytes(lives: tuple[Lifetime, ...], steps: int) -> list[int]:
    """Return the bytes that exist at each step."""
    change = [0] * (steps + 1)
    for life in lives:
        change[life.first] += life.bytes
        change[min(life.last + 1, steps)] -= life.bytes
    total, live = 0, []
    for delta in change[:steps]:
        total += delta
        live.append(total)
    return live


def _overwritable(op: OpInfo, step: int, lives: tuple[Lifetime, ...]) -> int:
    """Return the bytes saved where a depthwise convolution writes over its input."""
    if not op.depthwise:
        return 0
    dying = [life.bytes for life in lives if life.name in op.inputs and life.last == step]
    made = [life.bytes for life in lives if life.name in op.outputs]
    return min(max(dying, default=0), max(made, default=0))


def _name(op: OpInfo) -> str:
    return f"{op.type} {op.outputs[0]}" if op.outputs else op.type
