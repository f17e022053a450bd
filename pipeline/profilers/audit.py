"""How much of a file is really int8, and where it leaves the integers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.profilers.file_graph import (
    Arithmetic,
    Conversion,
    FileGraph,
    OpInfo,
    TensorInfo,
)

_INTEGER: tuple[Arithmetic, ...] = ("int8", "int16x8")
_WORD = re.compile(r"[a-z]+[0-9]*|[0-9]+")
# Words beside "int8" in a file's name that promise 8-bit weights and no more.
_WEIGHTS_ONLY = {"dynamic", "hybrid", "weight", "weights", "wo", "a16", "int16"}


class Island(Record):
    """A connected run of float operations in a file that computes in integers elsewhere.

    Attributes:
        place: ``inside`` has integer operations before and after, and costs a conversion
            on both sides; ``input`` has none before, ``output`` none after.
        first: name of its first operation, in the order they run.
        last: name of its last one.
        types: operators in it, in the order they first run.
        macs: multiply-accumulates in it.
    """

    place: Literal["inside", "input", "output"]
    first: str
    last: str
    types: tuple[str, ...]
    operators: int
    macs: int


class DtypeShare(Record):
    """Tensors of one type: the constants a file stores, or what it computes."""

    dtype: str
    constant: bool
    tensors: int
    bytes: int


class TypeShare(Record):
    """All operations of one operator.

    Attributes:
        int8: how many of them compute in 8-bit integers.
    """

    type: str
    operators: int
    int8: int
    macs: int


class Port(Record):
    """An input or output.

    Attributes:
        scale: of its integers; of a float one, of the integers it is at once made into or
            made from. ``None`` where it stays float.
        zero_point: the integer that stands for 0.
        inside: the type of these integers, where the port itself is float.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    inside: str | None = None


class Audit(Record):
    """What a file computes in, operation by operation, counted.

    Attributes:
        dtype: of its convolutions and products, in one word.
        operators: operations that run; conversions and index arithmetic among them.
        computing: operations that compute numbers of the network; shares are of these.
        int8_operators: of these, how many compute in 8-bit integers.
        macs: multiply-accumulates of one inference.
        int8_macs: of these, how many multiply 8-bit integers by 8-bit integers.
        macs_by_arithmetic: all of them, by what they multiply.
        islands: float parts between integer parts.
        edges: float parts at the input and at the output.
        claims: what the file says it computes in, such as ``int8``; ``None`` where it
            says nothing.
    """

    format: Literal["onnx", "tflite"]
    dtype: Arithmetic
    operators: int
    computing: int
    int8_operators: int
    macs: int
    int8_macs: int
    macs_by_arithmetic: dict[str, int]
    quantize_ops: int
    dequantize_ops: int
    cast_ops: int
    islands: tuple[Island, ...]
    edges: tuple[Island, ...]
    dtypes: tuple[DtypeShare, ...]
    types: tuple[TypeShare, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    int8_granularity: Literal["per-tensor", "per-channel"] | None = None
    claims: str | None = None

    @property
    def int8_operator_share(self) -> float:
        """Share of the computing operations in 8-bit integers, 0 to 1."""
        return self.int8_operators / self.computing if self.computing else 0.0

    @property
    def int8_mac_share(self) -> float:
        """Share of the multiply-accumulates in 8-bit integers, 0 to 1."""
        return self.int8_macs / self.macs if self.macs else 0.0

    @property
    def honest(self) -> bool:
        """Whether the file does not say int8, or something of it is.

        Without a product in it, its other operations are looked at.
        """
        share = self.int8_mac_share if self.macs else self.int8_operator_share
        return self.claims != "int8" or share > 0

    def demand(self, where: str = "the file", told: str = "") -> None:
        """Refuse a file that says int8 and is not at all.

        Args:
            where: the file, as the user knows it.
            told: where it says so, from :func:`claimed`.

        Raises:
            PareError: it says so, and not one multiply-accumulate is.
        """
        if not self.honest:
            said = f"{where} says int8{f' ({told})' if told else ''}"
            real = " and ".join(self.macs_by_arithmetic) or self.dtype
            raise PareError(
                f"{said} but is 0 % int8: its products compute in {real}. Quantize its "
                f"activations too and check what stands between quantize and dequantize, or "
                f"call it by what it is."
            )


def audit(graph: FileGraph, claims: str | None = None) -> Audit:
    """Count what a file computes in.

    Args:
        graph: the file, as its runtime executes it.
        claims: what the file says it computes in; only ``int8`` is held against it.
    """
    computing = [op for op in graph.ops if op.arithmetic]
    in_int8 = [op for op in computing if op.arithmetic == "int8"]
    conversions = Counter(op.conversion for op in graph.ops if op.conversion)
    regions = _regions(graph)
    return Audit(
        format=graph.format,
        dtype=graph.dtype,
        operators=len(graph.ops),
        computing=len(computing),
        int8_operators=len(in_int8),
        macs=graph.macs,
        int8_macs=sum(op.macs for op in in_int8),
        macs_by_arithmetic=_macs_by_arithmetic(computing),
        quantize_ops=conversions["quantize"],
        dequantize_ops=conversions["dequantize"],
        cast_ops=conversions["cast"],
        islands=tuple(region for region in regions if region.place == "inside"),
        edges=tuple(region for region in regions if region.place != "inside"),
        dtypes=_dtypes(graph),
        types=_types(graph.ops),
        inputs=_ports(graph, graph.inputs, "quantize"),
        outputs=_ports(graph, graph.outputs, "dequantize"),
        int8_granularity=graph.int8_granularity,
        claims=claims,
    )


def claimed(path: Path, facts: Mapping[str, Any]) -> str | None:
    """Tell where a file says that it is int8, or ``None`` where it doesn't.

    What its metadata says counts before its name. A name that speaks of weights alone, as
    in ``net-int8-weights.onnx``, does not say that the file computes in int8.

    >>> claimed(Path("net.int8.onnx"), {}), claimed(Path("int8/net_dynamic_int8.onnx"), {})
    ("its name is 'net.int8.onnx'", None)
    >>> claimed(Path("net.int8.onnx"), {"dtype": "w8"}), claimed(Path("a"), {"dtype": "int8"})
    (None, "its metadata has dtype = 'int8'")
    """
    told = {key: facts[key] for key in ("dtype", "scheme") if key in facts}
    if told:
        named = next((key for key, value in told.items() if value == "int8"), None)
        return f"its metadata has {named} = 'int8'" if named else None
    words = set(_WORD.findall(path.name.lower()))
    if "int8" in words and not words & _WEIGHTS_ONLY:
        return f"its name is {path.name!r}"
    return None


def _macs_by_arithmetic(ops: Iterable[OpInfo]) -> dict[str, int]:
    """Sum the products by what they multiply, most first."""
    found: Counter[str] = Counter()
    for op in ops:
        if op.macs and op.arithmetic:
            found[op.arithmetic] += op.macs
    return dict(found.most_common())


def _dtypes(graph: FileGraph) -> tuple[DtypeShare, ...]:
    computed = [tensor for tensor in graph.tensors if not tensor.constant]
    return (*_histogram(graph.stored, constant=True), *_histogram(computed, constant=False))


def _histogram(tensors: Iterable[TensorInfo], *, constant: bool) -> list[DtypeShare]:
    """Count tensors by type, the type with most bytes first."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for tensor in tensors:
        number[tensor.dtype] += 1
        size[tensor.dtype] += tensor.bytes
    return [
        DtypeShare(dtype=dtype, constant=constant, tensors=number[dtype], bytes=total)
        for dtype, total in sorted(size.items(), key=lambda item: (-item[1], item[0]))
    ]


def _types(ops: Iterable[OpInfo]) -> tuple[TypeShare, ...]:
    """Count operations by operator, the one with most products first."""
    found: dict[str, list[OpInfo]] = {}
    for op in ops:
        found.setdefault(op.type, []).append(op)
    shares = [
        TypeShare(
            type=kind,
            operators=len(own),
            int8=sum(op.arithmetic == "int8" for op in own),
            macs=sum(op.macs for op in own),
        )
        for kind, own in found.items()
    ]
    return tuple(sorted(shares, key=lambda share: (-share.macs, -share.operators, share.type)))


def _ports(graph: FileGraph, names: Iterable[str], conversion: Conversion) -> tuple[Port, ...]:
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    beside: dict[str, TensorInfo] = {}
    for op in graph.ops:
        if op.conversion == conversion and op.inputs and op.outputs:
            ends = op.inputs[0], op.outputs[0]
            outer, inner = ends if conversion == "quantize" else reversed(ends)
            beside.setdefault(outer, tensors[inner])
    return tuple(_port(tensors[name], beside.get(name)) for name in names)


def _port(tensor: TensorInfo, inner: TensorInfo | None) -> Port:
    told = tensor if tensor.scale is not None or inner is None else inner
    return Port(
        name=tensor.name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        scale=told.scale,
        zero_point=told.zero_point,
        inside=told.dtype if told is inner else None,
    )


def _regions(graph: FileGraph) -> list[Island]:
    """Return the connected float parts that touch an integer part, in running order."""
    ops = graph.ops
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    maker = {name: step for step, op in enumerate(ops) for name in op.outputs}
    before = [sorted({maker[n] for n in op.inputs if n in maker}) for op in ops]
    after: list[list[int]] = [[] for _ in ops]
    for step, makers in enumerate(before):
        for earlier in makers:
            after[earlier].append(step)
    integer = [_is_integer(op, tensors) for op in ops]
    # Casts and index arithmetic belong to the float part they stand in.
    inner = [not integer[i] and _joins(op) for i, op in enumerate(ops)]
    parts = _connected(len(ops), before, inner.__getitem__)
    found = []
    for part in parts:
        floats = [step for step in part if ops[step].arithmetic]
        place = _place(part, before, after, integer)
        if floats and place:
            found.append(_island(place, [ops[step] for step in floats]))
    return found


def _is_integer(op: OpInfo, tensors: Mapping[str, TensorInfo]) -> bool:
    if op.arithmetic == "int4":  # whether it is float is for its activations to say
        moved = (tensors[name] for name in (*op.inputs, *op.outputs))
        return not any("float" in tensor.dtype for tensor in moved if not tensor.constant)
    return op.arithmetic in _INTEGER


def _joins(op: OpInfo) -> bool:
    return op.conversion not in ("quantize", "dequantize")


def _connected(
    count: int, before: list[list[int]], inside: Callable[[int], bool]
) -> list[list[int]]:
    """Group the steps that are inside and hand tensors to each other."""
    group = list(range(count))

    def find(step: int) -> int:
        while group[step] != step:
            group[step] = group[group[step]]
            step = group[step]
        return step

    for step in filter(inside, range(count)):
        for other in filter(inside, before[step]):
            low, high = sorted((find(step), find(other)))
            group[high] = low
    parts: dict[int, list[int]] = {}
    for step in filter(inside, range(count)):
        parts.setdefault(find(step), []).append(step)
    return list(parts.values())


def _place(
    part: list[int], before: list[list[int]], after: list[list[int]], integer: list[bool]
) -> Literal["inside", "input", "output"] | None:
    """Tell on which sides of a part there are integer operations."""
    fed = any(integer[step] for step in _reached(part, before))
    read = any(integer[step] for step in _reached(part, after))
    if fed and read:
        return "inside"
    if fed:
        return "output"
    return "input" if read else None


def _reached(start: Iterable[int], edges: list[list[int]]) -> set[int]:
    seen = set(start)
    waiting = list(seen)
    while waiting:
        for step in edges[waiting.pop()]:
            if step not in seen:
                seen.add(step)
                waiting.append(step)
    return seen


def _island(place: Literal["inside", "input", "output"], ops: list[OpInfo]) -> Island:
    return Island(
        place=place,
        first=ops[0].name,
        last=ops[-1].name,
        types=tuple(dict.fromkeys(op.type for op in ops)),
        operators=len(ops),
        macs=sum(op.macs for op in ops),
    )
