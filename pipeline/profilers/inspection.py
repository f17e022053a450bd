"""All that can be said about one model file: its facts, sizes, arithmetic and times."""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.profilers.audit import Audit, audit, claimed
from pipeline.profilers.file_graph import FileGraph, read
from pipeline.profilers.op_times import OpTimes, op_times
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.tensors import EngineError

# What a program needs to feed an image and name the answer, by the keys that tell it.
_NEEDED = {
    "how pixels become its input": ("mean", "preprocessing"),
    "the layout of its input": ("input_layout",),
    "the names of its classes": ("classes",),
}
# Kernels of onnxruntime that multiply integers which the file itself has.
_INTEGER_PRODUCTS = ("MatMulIntegerToFloat", "QGemm", "QLinearConv", "QLinearMatMul")


class FileSize(Record):
    """Bytes of a file as it is and as it travels.

    Attributes:
        gzip: at gzip's own level, 6.
        zstd: at zstd's own level, 3; ``None`` where Python has no zstd.
    """

    plain: int
    gzip: int
    zstd: int | None = None


class Inspection(Record):
    """What one file is.

    Attributes:
        metadata: what it says about itself.
        claim: where it says that it is int8; ``None`` where it doesn't.
        times: what its operators took here; ``None`` where nobody asked.
        warnings: what its user should know, a sentence each.
    """

    file: str
    size: FileSize
    metadata: dict[str, Any]
    audit: Audit
    claim: str | None = None
    times: OpTimes | None = None
    warnings: tuple[str, ...] = ()


def inspect(path: Path, *, timed: bool = True, runs: int = 30, threads: int = 1) -> Inspection:
    """Look at a file from all sides; a file that says int8 and is not is still looked at.

    Where its operators can't be timed (the machine is emulated, the runtime has no timer),
    the reason stands in the place of the times.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        timed: run it to time its operators.
        runs: timed inferences.
        threads: of the engine, where it is timed.

    Raises:
        PareError: no such file, another format, or a graph that can't be read.
    """
    graph = read(path)
    try:
        facts, own, unread = read_metadata(path), read_metadata(path, beside=False), ""
    except EngineError as error:
        facts, own, unread = {}, {}, f"its metadata can't be read: {error}"
    claim = claimed(path, facts)
    found = audit(graph, "int8" if claim else None)
    times = _times(path, runs, threads) if timed else None
    warnings = [unread] if unread else [*_missing(facts)]
    if facts and not own:
        warnings.append(f"the metadata is in {path.name}.json beside the file, not in it.")
    warnings += [*_contradictions(graph, facts), *_costs(graph, found), *_unused(found, times)]
    return Inspection(
        file=path.name,
        size=_size(path),
        metadata=facts,
        claim=claim,
        audit=found,
        times=times,
        warnings=tuple(warnings),
    )


def _times(path: Path, runs: int, threads: int) -> OpTimes:
    try:
        return op_times(path, runs=runs, threads=threads)
    except PareError as error:
        return OpTimes(why=str(error), threads=threads)


def _size(path: Path) -> FileSize:
    content = path.read_bytes()
    zstd = _zstd()
    return FileSize(
        plain=len(content),
        gzip=len(gzip.compress(content, 6, mtime=0)),
        zstd=len(zstd.compress(content)) if zstd else None,
    )


def _zstd() -> ModuleType | None:
    """Return a module that compresses with zstd: Python's own from 3.14 on, or zstandard."""
    for name in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return None


def _missing(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts:
        yield "no metadata: nothing in the file says how to feed it or what its classes are."
        return
    told = [what for what, keys in _NEEDED.items() if not any(key in facts for key in keys)]
    if told:
        yield f"the metadata does not tell {', '.join(told)}."


def _contradictions(graph: FileGraph, facts: Mapping[str, Any]) -> Iterator[str]:
    """Compare what the file says with what it is."""
    dtype = facts.get("dtype")
    if dtype is not None and dtype != graph.dtype:
        yield f"the metadata has dtype = {dtype!r}, its products compute in {graph.dtype}."
    tensors = {tensor.name: tensor for tensor in graph.tensors}
    shape = facts.get("input_shape")
    own = [*tensors[graph.inputs[0]].shape] if graph.inputs else []
    if isinstance(shape, list) and graph.inputs:
        given = [
            real if said is None else said for said, real in zip(shape, own, strict=False)
        ]
        if len(shape) != len(own) or given != own:
            yield f"the metadata has input_shape = {shape}, its input is {own}."
    classes = facts.get("classes")
    if isinstance(classes, list) and len(graph.outputs) == 1:
        logits = (*tensors[graph.outputs[0]].shape, 0)[-2:][0]
        if len(classes) != logits:
            yield f"the metadata has {len(classes)} classes, its output {logits} numbers."


def _costs(graph: FileGraph, found: Audit) -> Iterator[str]:
    if not graph.static_shapes:
        yield "a size is left open: each call may choose it, and figures here are for batch 1."
    if found.islands:
        inside = len(found.islands)
        parts = "part stands" if inside == 1 else "parts stand"
        yield (
            f"{inside} float {parts} between integer parts; each is dequantized into and "
            f"quantized out of."
        )


def _unused(found: Audit, times: OpTimes | None) -> Iterator[str]:
    """Say so where the runtime made less of the integers than the file offers.

    On x86 onnxruntime makes signed pairs unsigned, and where it can't for one pair (its
    output is read twice) the products on both sides of it run in float. On Arm they don't.
    """
    if times is None or not times.ops:
        return
    offered = sum(share.int8 for share in found.types if share.macs)
    ran = sum(n for kernel, n in times.kernels().items() if kernel in _INTEGER_PRODUCTS)
    if ran < offered:
        yield (
            f"on this processor the runtime ran {offered - ran} of {offered} int8 products in "
            f"float; another may run them in integers."
        )
