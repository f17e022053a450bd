"""Compacts a checkpoint for the command line and prints what came of it."""

from __future__ import annotations

import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.core.errors import PareError

if TYPE_CHECKING:
    from pipeline.graph.explain import Explanation
    from pipeline.stages.standalone import Compacted

_MOST_LAYERS = 30
_MOST_LINES = 10  # of what was kept and why


def execute(
    checkpoint: str,
    *,
    model: str | None,
    shape: tuple[int, int, int] | None,
    zeros: bool,
    masks: Path | None,
    multiple: int,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    quiet: bool,
) -> None:
    """Compact a checkpoint and print what left, what stayed and where the files are.

    Raises:
        PareError: an option is missing or has no meaning here, or compaction refuses.
    """
    if model is None or shape is None or out is None:
        given = {"--model NAME": model, "--input CxHxW": shape, "--out FOLDER": out}
        missing = [option for option, value in given.items() if value is None]
        raise PareError(
            f"to compact the checkpoint {checkpoint}, {' and '.join(missing)} must be given; "
            "`pare compact --help` says how."
        )
    if targets:
        raise PareError("--target has no meaning for a checkpoint. Leave it out.")
    from pipeline.stages.standalone import compact_checkpoint

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the user's own package.module:factory
    result = compact_checkpoint(
        checkpoint,
        model,
        shape,
        out,
        zeros=zeros,
        masks=masks,
        multiple=multiple,
        options=dict(map(_option, overrides)),
        fresh=not resume,
    )
    if not quiet:
        click.echo("\n".join(lines(result)))


def _option(text: str) -> tuple[str, Any]:
    """Read an option of the model: KEY=VALUE, the value in TOML or plain text."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise PareError(f"--set {text!r} is not of the form key=value.")
    try:
        return key, tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return key, value


def lines(result: Compacted) -> list[str]:
    """Return what came of a compaction as lines for a terminal."""
    worst, compared = result.proof.worst, len(result.proof.comparisons)
    folder, onnx = result.folder, result.onnx
    plan, weights = str(folder / "plan.json"), str(folder / "model.safetensors")
    return [
        *_aligned(_sizes(result)),
        f"outputs equal on noise: {compared} comparisons, worst {worst:.1e} of the scale",
        "",
        *_removed(result.channels),
        *_kept(result.channels),
        *([result.slow] if result.slow else []),
        "",
        f"{folder}: {', '.join(result.files)}",
        f"no model.onnx: {onnx.refused}"
        if onnx.refused
        else f"model.onnx agrees with PyTorch to {onnx.difference:.1e} of the scale",
        "",
        "Load it again, where network is what --model builds (rebuild is in graph.surgery,",
        "CutPlan in graph.plan of pipeline, load_file in safetensors.torch):",
        f"    small = rebuild(network, {result.shape}, CutPlan(**json.load(open({plan!r}))))",
        f"    small.load_state_dict(load_file({weights!r}))",
    ]


def _sizes(result: Compacted) -> list[list[str]]:
    before, after = result.before, result.after
    pairs = {
        "parameters": (before.parameters, after.parameters),
        "MACs": (before.macs, after.macs),
        "bytes": (result.bytes_before, result.bytes_after),
    }
    return [
        ["", "before", "after", "change"],
        *(
            [name, f"{old:,}", f"{new:,}", f"{(new - old) / old:+.1%}" if old else "-"]
            for name, (old, new) in pairs.items()
        ),
    ]


def _removed(channels: Explanation) -> list[str]:
    """Return how many channels left each layer, and for what."""
    total: Counter[str] = Counter()
    for layer in channels.layers:
        total.update(layer.reasons)
    if not total:
        return ["0 channels removed: single zeros in channels that live save no work"]
    reasons = sorted(total)
    cut = [layer for layer in channels.layers if layer.removed]
    rows = [["layer", "channels", *reasons]]
    rows += [
        [layer.layer, f"{layer.before} -> {layer.after}"]
        + [str(layer.reasons.get(reason, 0)) for reason in reasons]
        for layer in cut[:_MOST_LAYERS]
    ]
    rows.append(["all", "", *(f"{total[reason]:,}" for reason in reasons)])
    more = len(cut) - _MOST_LAYERS
    rest = [f"({_counted(more, 'more layer')} in channels.json)"] if more > 0 else []
    return [f"{_counted(total.total(), 'channel')} removed", *_aligned(rows), *rest]


def _kept(channels: Explanation) -> list[str]:
    """Return why dead channels stayed, what most of them share first."""
    found = Counter((layer.layer, one.why) for layer in channels.layers for one in layer.kept)
    if not found:
        return []
    shown = [
        f"  {layer}: {_counted(count, 'channel')}, {why}"
        for (layer, why), count in found.most_common(_MOST_LINES)
    ]
    more = len(found) - _MOST_LINES
    rest = [f"  ({_counted(more, 'more line')} in channels.json)"] if more > 0 else []
    return ["", f"{_counted(found.total(), 'dead channel')} kept", *shown, *rest]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines: the first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
