"""Looks into one model file for the command line and prints what it is."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.profilers.audit import Audit, Island, Port
    from pipeline.profilers.inspection import Inspection
    from pipeline.profilers.op_times import OpTimes

_WIDTH = 98
_ITEMS = 6  # of a list
_NAME = 44  # of an operation; converters write whole paths
_PLACES = {"inside": "inside", "input": "at the input", "output": "at the output"}


def execute(path: Path, *, as_json: bool, timed: bool, top: int, threads: int) -> None:
    """Inspect a file and print what was found.

    Raises:
        PareError: the file can't be read, or says int8 and is not; the second after
            everything is printed.
    """
    from pipeline.profilers.inspection import inspect

    found = inspect(path, timed=timed, threads=threads)
    click.echo(json.dumps(plain(found), indent=2) if as_json else "\n".join(lines(found, top)))
    found.audit.demand(str(path), found.claim or "")


def plain(found: Inspection) -> dict[str, Any]:
    """Return all that was found as plain data, the shares worked out."""
    data = found.model_dump(mode="json")
    data["audit"] |= {
        "int8_operator_share": found.audit.int8_operator_share,
        "int8_mac_share": found.audit.int8_mac_share,
        "honest": found.audit.honest,
    }
    if found.times:
        data["times"]["by_kernel_ms"] = found.times.by_kernel()
    return data


def lines(found: Inspection, top: int) -> list[str]:
    """Return what was found as lines for a terminal.

    Args:
        found: the inspection.
        top: so many single operators are listed by time.
    """
    audit = found.audit
    parts = [
        [_head(found)],
        ["metadata", *_metadata(found.metadata)] if found.metadata else [],
        ["inputs and outputs", *_ports(audit)],
        ["products by arithmetic", *_products(audit)],
        ["operators", *_operators(audit)],
        _floats(audit),
        ["tensors by type", *_dtypes(audit)],
        _times(found.times, top),
        _warnings(found.warnings),
    ]
    shown = [part for part in parts if part]
    return [line for part in shown for line in (*part, "")][:-1]


def _head(found: Inspection) -> str:
    size, audit = found.size, found.audit
    packed = f", gzip {size.gzip:,}"
    packed += f", zstd {size.zstd:,}" if size.zstd is not None else ""
    scales = f" ({audit.int8_granularity} weights)" if audit.int8_granularity else ""
    name = shortened(found.file)
    return f"{name}: {audit.format}, {audit.dtype}{scales}, {size.plain:,} bytes{packed}"


def _metadata(facts: dict[str, Any]) -> list[str]:
    width = min(max(map(len, facts)), 24)
    return [_cut(f"  {_clean(key):<{width}}  {_value(value)}") for key, value in facts.items()]


def _warnings(warnings: Sequence[str]) -> list[str]:
    if not warnings:
        return []
    return ["warnings", *(line for text in warnings for line in _wrapped(text, "- "))]


def _value(value: Any) -> str:
    if isinstance(value, list):
        text = ", ".join(_value(item) for item in value[:_ITEMS])
        many = len(value) > _ITEMS
        return f"{len(value):,}: {text}, ..." if many else f"[{text}]"
    if isinstance(value, float):
        return f"{value:.6g}"
    return _clean(value if isinstance(value, str) else json.dumps(value))


def _ports(audit: Audit) -> list[str]:
    ports = [("in", port) for port in audit.inputs] + [("out", port) for port in audit.outputs]
    return _indented(
        [
            [
                way,
                shortened(port.name),
                port.dtype,
                "x".join(map(str, port.shape)),
                _scale(port),
            ]
            for way, port in ports
        ],
        left=5,
    )


def _scale(port: Port) -> str:
    if port.scale is None:
        return "no scale"
    told = f"scale {port.scale:.6g}, zero point {port.zero_point}"
    return f"{told} (as {port.inside} inside)" if port.inside else told


def _products(audit: Audit) -> list[str]:
    rows = [
        [kind, f"{macs:,} MACs", f"{macs / audit.macs:.1%}"]
        for kind, macs in audit.macs_by_arithmetic.items()
    ]
    return _indented(rows) if rows else ["  none: it has no convolution and no product"]


def _operators(audit: Audit) -> list[str]:
    rows = [["", "count", "int8", "MACs", "of MACs"]]
    rows += [
        [
            shortened(share.type),
            f"{share.operators:,}",
            f"{share.int8:,}",
            f"{share.macs:,}" if share.macs else "-",
            f"{share.macs / audit.macs:.1%}" if share.macs else "-",
        ]
        for share in audit.types
    ]
    converted = (
        f"{audit.quantize_ops} quantize, {audit.dequantize_ops} dequantize, "
        f"{audit.cast_ops} cast"
    )
    counted = f"{audit.int8_operators} of {audit.computing} that compute"
    shares = f"({audit.int8_operator_share:.1%}), {audit.int8_mac_share:.1%} of MACs"
    return [*_indented(rows), f"  int8: {counted} {shares}; {converted}"]


def _floats(audit: Audit) -> list[str]:
    parts = [*audit.islands, *audit.edges]
    if not parts:
        return []
    return [
        "float parts of an integer file",
        *(line for part in parts for line in _part(part)),
    ]


def _part(island: Island) -> Iterator[str]:
    count = f"{island.operators} operator{'' if island.operators == 1 else 's'}"
    macs = f"{island.macs:,} MACs"
    types = ", ".join(island.types)
    yield shortened(f"  {_PLACES[island.place]}: {count}, {macs}: {types}", _WIDTH)
    if island.operators == 1:
        yield f"      {shortened(island.first)}"
    else:
        yield f"      {shortened(island.first)} to {shortened(island.last)}"


def _dtypes(audit: Audit) -> list[str]:
    rows = [["", "", "tensors", "bytes"]]
    rows += [
        [
            "stored" if share.constant else "computed",
            share.dtype,
            f"{share.tensors:,}",
            f"{share.bytes:,}",
        ]
        for share in audit.dtypes
    ]
    return _indented(rows, left=2)


def _times(times: OpTimes | None, top: int) -> list[str]:
    if times is None:
        return []
    if not times.ops:
        return ["operators by time", *_wrapped(f"not timed: {times.why}")]
    threads = f"{times.threads} thread{'' if times.threads == 1 else 's'}"
    total = f"{times.total_ms:.3f} ms with its profiler on"
    calls = times.kernels()
    kernels = [["", "calls", "ms", "of time"]]
    kernels += [
        [kernel, str(calls[kernel]), f"{ms:.3f}", f"{ms / (times.total_ms or 1):.1%}"]
        for kernel, ms in times.by_kernel().items()
    ]
    single = [["", "", "ms", "of time"]]
    single += [
        [shortened(op.name), op.kernel, f"{op.median_ms:.3f}", f"{op.share:.1%}"]
        for op in times.ops[:top]
    ]
    more = len(times.ops) - top
    return [
        f"operators by time, as they ran: {total} ({threads}, medians of {times.runs} runs)",
        *_indented(kernels),
        *(["", "  the slowest" if more > 0 else "  one by one"] if top else []),
        *(_indented(single, left=2) if top else []),
    ]


def _indented(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as lines: the first columns to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _wrapped(text: str, mark: str = "") -> list[str]:
    return textwrap.wrap(
        _clean(text),
        _WIDTH,
        initial_indent=f"  {mark}",
        subsequent_indent="  " + " " * len(mark),
        break_on_hyphens=False,
    )


def _cut(line: str) -> str:
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def shortened(text: str, width: int = _NAME) -> str:
    """Return a text of at most so many characters, its middle left out where it is longer."""
    text = _clean(text)
    if len(text) <= width:
        return text
    before = (width - 3) * 2 // 3
    return f"{text[:before]}...{text[before + 3 - width :]}"


def _clean(text: str) -> str:
    """Return a text of the file without what would command a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
