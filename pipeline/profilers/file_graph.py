"""What a model file computes and moves, read from the file without running it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.errors import PareError
from pipeline.core.record import Record

Arithmetic = Literal["fp32", "fp16", "w8", "dynamic", "int4", "int8", "int16x8", "mixed"]
"""What numbers are multiplied.

``int8``: 8-bit weights and activations; ``int16x8``: 8-bit weights, 16-bit activations;
``dynamic``: 8-bit weights in a kernel that takes float activations and makes them integer on
the fly; ``w8``: 8-bit weights made float before a float kernel reads them; ``int4``: 4-bit
weights, whatever the activations; ``mixed``: partly 8-bit.
"""

Conversion = Literal["quantize", "dequantize", "cast"]

EIGHT_BIT = ("int8", "uint8")
FOUR_BIT = ("int4", "uint4")
FLOATS = ("float16", "float32")
_WIDE_FLOATS = (*FLOATS, "bfloat16", "float64")
_NUMBERS = (*EIGHT_BIT, *FOUR_BIT, "int16", *_WIDE_FLOATS)

_CONVERSIONS: Mapping[str, Conversion] = {
    "QuantizeLinear": "quantize",
    "DynamicQuantizeLinear": "quantize",
    "QUANTIZE": "quantize",
    "DequantizeLinear": "dequantize",
    "DEQUANTIZE": "dequantize",
    "Cast": "cast",
    "CAST": "cast",
}


class TensorInfo(Record):
    """One buffer of the graph: its size for batch 1 where the batch is open.

    Attributes:
        scale: of its integers, where the whole tensor has one:
            ``real = (stored - zero_point) * scale``.
        zero_point: the integer that stands for 0.
    """

    name: str
    bytes: int
    shape: tuple[int, ...]
    dtype: str
    constant: bool
    scale: float | None = None
    zero_point: int | None = None


class OpInfo(Record):
    """One operation as the runtime executes it, its tensors by name.

    Attributes:
        macs: multiply-accumulates, zero for everything but convolution and product.
        activation_bytes: non-constant bytes read and written.
        depthwise: a convolution that could overwrite its input, channel by channel.
        name: the file's own name for it, or that of what it makes where it has none.
        arithmetic: what it computes in; ``None`` for a conversion, and for what computes
            no numbers of the network (shapes, indices).
        conversion: set where it only changes how numbers are stored.
    """

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    activation_bytes: int = 0
    depthwise: bool = False
    name: str = ""
    arithmetic: Arithmetic | None = None
    conversion: Conversion | None = None


class FileGraph(Record):
    """A model file as a list of operations in the order they run.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        dtype: what its convolutions and products compute in.
        int8_granularity: scales of its 8-bit weights; ``None`` where it has none.
        op_types: operators found in the file, those that cost nothing included.
        static_shapes: whether every size is fixed by the file.
        batch: images in one inference, 1 where the file leaves it open.
        weight_bytes: constants stored in the file.
        stored: these constants, as the file keeps them.
    """

    format: Literal["onnx", "tflite"]
    tensors: tuple[TensorInfo, ...]
    ops: tuple[OpInfo, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: Arithmetic
    int8_granularity: Literal["per-tensor", "per-channel"] | None = None
    input_dtypes: tuple[str, ...] = ()
    output_dtypes: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()
    static_shapes: bool = True
    batch: int = 1
    weight_bytes: int = 0
    stored: tuple[TensorInfo, ...] = ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(op.macs for op in self.ops)

    @property
    def activation_bytes(self) -> int:
        """Bytes every operation reads and writes, weights not counted, summed."""
        return sum(op.activation_bytes for op in self.ops)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of every tensor that is computed, by name."""
        return {tensor.name: tensor.bytes for tensor in self.tensors if not tensor.constant}


@dataclass(frozen=True)
class Node:
    """An operation on its way from a file into a :class:`FileGraph`.

    ``arithmetic`` and ``scales`` (of its weight) are set where ``macs`` is not zero.
    """

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    depthwise: bool = False
    arithmetic: Arithmetic | None = None
    scales: int = 0
    name: str = ""


def read(path: Path) -> FileGraph:
    """Read a ``.onnx`` or ``.tflite`` file.

    Raises:
        PareError: no such file, another format, a damaged file, or a graph whose sizes
            the file leaves open; says what to do.
    """
    if not path.is_file():
        raise PareError(f"no file at {path}. Check the path.")
    if path.suffix not in (".onnx", ".tflite"):
        raise PareError(
            f"{path}: only .onnx and .tflite files can be read. Export to one of them."
        )
    try:
        return _read(path)
    except PareError:
        raise
    except Exception as error:  # a damaged file breaks its reader in any way
        raise PareError(
            f"{path} is damaged, or unusual beyond what can be read "
            f"({type(error).__name__}: {error}). Export it again."
        ) from error


def _read(path: Path) -> FileGraph:
    if path.suffix == ".onnx":
        from pipeline.profilers.read_onnx import read_onnx

        return read_onnx(path)
    from pipeline.profilers.read_tflite import read_tflite

    return read_tflite(path)


def to_ops(nodes: Iterable[Node], tensors: Mapping[str, TensorInfo]) -> tuple[OpInfo, ...]:
    """Count what each node moves; a tensor read twice by one node is counted once."""
    return tuple(
        OpInfo(
            type=node.type,
            inputs=node.inputs,
            outputs=node.outputs,
            macs=node.macs,
            activation_bytes=sum(
                tensors[name].bytes
                for name in (*dict.fromkeys(node.inputs), *node.outputs)
                if not tensors[name].constant
            ),
            depthwise=node.depthwise,
            name=node.name or next(iter(node.outputs), ""),
            arithmetic=_computes_in(node, tensors),
            conversion=_CONVERSIONS.get(node.type),
        )
        for node in nodes
    )


def _computes_in(node: Node, tensors: Mapping[str, TensorInfo]) -> Arithmetic | None:
    """Tell what any operation computes in; without a weight its activations decide."""
    if node.type in _CONVERSIONS:
        return None
    if node.arithmetic:
        return node.arithmetic
    moved = [tensors[name] for name in (*node.inputs, *node.outputs)]
    found = {tensor.dtype for tensor in moved if not tensor.constant}
    return _of_activations(found.intersection(_NUMBERS))


def _of_activations(dtypes: set[str]) -> Arithmetic | None:
    if not dtypes:
        return None
    if dtypes <= set(EIGHT_BIT):
        return "int8"
    if dtypes == {"int16"}:
        return "int16x8"
    if dtypes <= set(FLOATS):
        return "fp16" if "float16" in dtypes else "fp32"
    return "fp32" if dtypes <= {"float32", "float64"} else "mixed"


def arithmetic(activation: str, weight: str, *, unpacked: bool = False) -> Arithmetic:
    """Tell what one convolution or product computes in from its operands' dtypes.

    Args:
        activation: of the data, as the kernel reads it.
        weight: as the file stores it.
        unpacked: the file makes the weight float before the kernel reads it.

    >>> arithmetic("float32", "int8"), arithmetic("float32", "int8", unpacked=True)
    ('dynamic', 'w8')
    >>> arithmetic("uint8", "int8"), arithmetic("int16", "int8"), arithmetic("int8", "int4")
    ('int8', 'int16x8', 'int4')
    """
    if weight in FOUR_BIT:
        return "int4"
    if activation == "int16" and weight in (*EIGHT_BIT, "int16"):
        return "int16x8"
    if weight in EIGHT_BIT:
        if activation in EIGHT_BIT:
            return "int8"
        kind: Arithmetic = "w8" if unpacked else "dynamic"
        return kind if activation in FLOATS else "mixed"
    if "float16" in (weight, activation):
        return "fp16" if activation in FLOATS else "mixed"
    return "fp32" if (activation, weight) == ("float32", "float32") else "mixed"


def overall(nodes: Sequence[Node], input_dtypes: Sequence[str]) -> Arithmetic:
    """Tell what a whole graph computes in.

    A full-integer file has no float product left. Among float products the scheme that
    shrinks weights names the file, as converters leave small weights alone; 4-bit weights
    name it also where the rest is 8-bit, for want of kernels.

    Args:
        nodes: the operations.
        input_dtypes: of the graph, which decide where there is no product at all.
    """
    found = {node.arithmetic for node in nodes if node.arithmetic}
    if not found:
        first = input_dtypes[0] if input_dtypes else "float32"
        return arithmetic(first, first)
    if len(found) == 1:
        return found.pop()
    if found == {"int4", "int8"}:
        return "int4"
    if found & {"int8", "int16x8", "mixed"}:
        return "mixed"
    smaller: tuple[Arithmetic, ...] = ("int4", "dynamic", "w8", "fp16")
    return next(kind for kind in smaller if kind in found)


def granularity(nodes: Iterable[Node]) -> Literal["per-tensor", "per-channel"] | None:
    """Tell how 8-bit weights are scaled; one weight with many scales is per-channel."""
    scales = [node.scales for node in nodes if node.scales]
    if not scales:
        return None
    return "per-channel" if max(scales) > 1 else "per-tensor"


def size(shape: Iterable[int], bits: int) -> int:
    """Return the bytes of a dense tensor; narrow types are packed.

    >>> size((1, 3), 4), size((), 32)
    (2, 4)
    """
    return (math.prod(shape) * bits + 7) // 8
