"""What would make a file fit that does not: a smaller image, a stride, a type, a share."""

from __future__ import annotations

from math import isqrt, prod

from pipeline.core.record import Record
from pipeline.core.target import Dtype
from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo
from pipeline.profilers.memory import lifetimes, plan

_CHANNELS = (1, 3, 4)  # of an image
_SIDE = 8  # networks halve their images a few times: sides are multiples of this
_LEAST = 4  # an image that is smaller than a fourth a side is another task
# What takes the sides of an image away at once. TFLite writes a global average pooling also
# as one of a window as large as the image, ONNX never does.
_POOLS = (
    "MEAN", "SUM", "REDUCE_MAX", "AVERAGE_POOL_2D",
    "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "QLinearGlobalAveragePool",
)  # fmt: skip
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D", "Conv", "QLinearConv", "ConvInteger")

#: Bits of a weight in a file of each dtype, widest first.
_BITS: dict[Dtype, int] = {"fp32": 32, "fp16": 16, "int8": 8, "dynamic": 8, "int4": 4}


class Elasticity(Record):
    """How the activations of a file give when its images or its strides change.

    Attributes:
        resizable: convolutions up to a global pooling, so that activations grow with the
            area of the image and no weight depends on it.
        strided: the convolution that makes the largest tensor where activations peak, if
            it has stride 1 and everything passes through it.
        strided_arena_bytes: the arena if that one halved the sides of what it makes.
    """

    resizable: bool = False
    strided: str = ""
    strided_arena_bytes: int | None = None

    @classmethod
    def of(cls, graph: FileGraph) -> Elasticity:
        """Look at the shapes of a file that was read."""
        tensors = {tensor.name: tensor for tensor in graph.tensors}
        if graph.format == "tflite" and is_channels_first(graph):
            return cls()  # its sides change places on the way: nothing is said of them
        if not _is_resizable(graph, tensors):
            return cls()
        step = _widest(graph)
        arena = None if step is None else _strided(graph, step, tensors)
        if step is None or arena is None:
            return cls(resizable=True)
        op = graph.ops[step]
        strided = f"{op.type} {op.outputs[0]}"
        return cls(resizable=True, strided=strided, strided_arena_bytes=arena)


def is_channels_first(graph: FileGraph) -> bool:
    """Tell whether an image has its channels before its sides: in ONNX, and in a few others.

    A TFLite file that was converted from PyTorch may begin with a transposition; what is
    small where ONNX has its channels, and not where TFLite has them, is taken for channels.
    """
    if graph.format == "onnx":
        return True
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    shape = shapes.get(graph.inputs[0], ()) if graph.inputs else ()
    return len(shape) == 4 and shape[1] in _CHANNELS and shape[3] not in _CHANNELS


def largest_side(size: tuple[int, int], arena_bytes: int, room_bytes: float) -> int | None:
    """Return the side of the largest square image whose activations fit, about.

    Args:
        size: height and width the arena was planned for.
        arena_bytes: of these; it is taken to grow with the area.
        room_bytes: what activations may take.

    Returns:
        A multiple of 8 of at least a fourth of the present side, or ``None`` where there
        is none below it.

    >>> largest_side((128, 128), 1000, 600), largest_side((128, 128), 1000, 10)
    (96, None)
    """
    if arena_bytes <= 0 or room_bytes <= 0:
        return None
    side = isqrt(int(prod(size) * room_bytes / arena_bytes)) // _SIDE * _SIDE
    return side if max(_SIDE, max(size) / _LEAST) <= side < max(size) else None


def narrower_dtype(
    dtype: str, allowed: tuple[Dtype, ...], other: int, weights: int, room: float
) -> tuple[Dtype, int] | None:
    """Return the widest number format in which a file would fit, and its bytes then, about.

    Args:
        dtype: of the file.
        allowed: what the target takes.
        other: bytes of the file that are no weights.
        weights: bytes of its weights.
        room: bytes there are.

    >>> narrower_dtype("fp32", ("fp32", "int8"), 1000, 4000, 2500)
    ('int8', 2000)
    """
    bits = next((wide for name, wide in _BITS.items() if name == dtype), None)
    if bits is None:
        return None
    for name, narrow in _BITS.items():
        size = other + weights * narrow // bits
        if name in allowed and narrow < bits and size <= room:
            return name, size
    return None


def _is_resizable(graph: FileGraph, tensors: dict[str, TensorInfo]) -> bool:
    """Tell whether only pooling takes the sides of the image away, and all of them."""
    if len(graph.inputs) != 1 or not _is_spatial(graph, tensors.get(graph.inputs[0])):
        return False
    pooled = False
    for op in graph.ops:
        before = [n for n in op.inputs if _is_spatial(graph, tensors.get(n))]
        after = [n for n in op.outputs if _is_spatial(graph, tensors.get(n))]
        if before and not after:
            if op.type not in _POOLS:
                return False
            pooled = True
    ends = (tensors.get(name) for name in graph.outputs)
    return pooled and not any(_is_spatial(graph, tensor) for tensor in ends)


def _is_spatial(graph: FileGraph, tensor: TensorInfo | None) -> bool:
    """Tell whether a computed tensor has sides: four dimensions, the two of the image > 1."""
    if tensor is None or tensor.constant or len(tensor.shape) != 4:
        return False
    height, width = tensor.shape[1:3] if graph.format == "tflite" else tensor.shape[2:]
    return height * width > 1


def _strided(graph: FileGraph, step: int, tensors: dict[str, TensorInfo]) -> int | None:
    """Plan the arena anew with one operation making a fourth, and all that follows."""
    if not _keeps_sides(graph, graph.ops[step], tensors):
        return None
    behind = set(graph.ops[step].outputs)
    for op in graph.ops[step + 1 :]:
        read = {name for name in op.inputs if name in tensors and not tensors[name].constant}
        if not read <= behind:  # a branch around it: its sides would not match
            return None
        behind |= set(op.outputs)
    smaller = tuple(
        tensor.model_copy(update={"bytes": tensor.bytes // 4})
        if tensor.name in behind and _is_spatial(graph, tensor)
        else tensor
        for tensor in graph.tensors
    )
    return plan(graph.model_copy(update={"tensors": smaller})).greedy_bytes


def _widest(graph: FileGraph) -> int | None:
    """Return the step that makes the largest tensor alive where most bytes are."""
    lives = lifetimes(graph)
    alive = [
        [life for life in lives if life.first <= step <= life.last]
        for step in range(len(graph.ops))
    ]
    most = max(alive, key=lambda there: sum(life.bytes for life in there), default=[])
    largest = max(most, key=lambda life: life.bytes, default=None)
    if largest is None:
        return None
    makers = (i for i, op in enumerate(graph.ops) if largest.name in op.outputs)
    return next(makers, None)  # none where it is the image


def _keeps_sides(graph: FileGraph, op: OpInfo, tensors: dict[str, TensorInfo]) -> bool:
    """Tell whether an operation is a convolution that makes an image of the same size."""
    ends = tensors.get(op.inputs[0] if op.inputs else ""), tensors.get(op.outputs[0])
    if op.type not in _CONVOLUTIONS or not all(_is_spatial(graph, end) for end in ends):
        return False
    axes = slice(1, 3) if graph.format == "tflite" else slice(2, 4)
    before, after = (end.shape[axes] for end in ends if end is not None)
    return before == after
