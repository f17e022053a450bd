"""Widths that kernels do not like: a smaller network may come out slower."""

from __future__ import annotations

from torch import nn

#: Of which depthwise kernels want the width to be a multiple.
BLOCK = 4
_MOST_NAMED = 5


def uneven(model: nn.Module) -> str | None:
    """Say which depthwise convolutions are of a width that runs slowly, if any are.

    onnxruntime computes them in blocks of channels; one of 98 channels takes about three
    times as long as one of 100 (measured; see benchmarks/compaction.py).
    """
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels > 1
        and module.out_channels % BLOCK
    ]
    if not found:
        return None
    named = ", ".join(map(repr, found[:_MOST_NAMED]))
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return (
        f"depthwise convolutions of a width that is no multiple of {BLOCK} may run slower "
        f"than before they were cut: {named}{more}. Keep dead channels for it with "
        "compact.multiple = 8 (pare compact --multiple 8)."
    )
