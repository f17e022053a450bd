"""Keep a pruned network connected: every layer goes on passing signal to the next."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn

from pipeline.graph.channels import analyse, joined, without_constants
from pipeline.graph.rules import OPAQUE
from pipeline.graph.trace import trace


@torch.no_grad()
def connect(
    model: nn.Module,
    shape: tuple[int, ...],
    masks: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Give every layer that was cut off its best weight that reads a live channel.

    Layers are mended from the image to the output, so that each finds what the one before
    passes on: in the end the output depends on the image, and no layer has lost its last
    channel. What is given is taken from the kept weight of smallest score elsewhere, so that
    as many are kept as before.

    Args:
        model: a plain network; only its structure is used.
        shape: of one image, ``(c, h, w)``.
        masks: boolean, by parameter name.
        scores: what the masks were chosen by, same names and shapes.

    Returns:
        The masks, mended; as they were where too few weights are kept to connect every
        layer, or where an operation without a rule stands in between.
    """
    # The graph is looked at on the CPU, wherever the network is trained.
    device = next(iter(masks.values())).device
    masks = {name: mask.cpu() for name, mask in masks.items()}
    scores = {name: score.detach().cpu() for name, score in scores.items()}
    bare = without_constants(trace(model, shape), masks)
    weights = dict(bare.named_parameters(remove_duplicate=False))
    mended = {name: mask.clone() for name, mask in masks.items()}
    given = {name: torch.zeros_like(mask) for name, mask in masks.items()}
    while (cut := _first_cut(bare, mended)) is not None:
        name, readable = cut
        taken = _smallest(mended, given, scores)
        if taken is None or not readable.any():
            return _moved(masks, device)
        best = int(torch.where(readable, scores[name], -torch.inf).argmax())
        mended[taken[0]].view(-1)[taken[1]] = False
        mended[name].view(-1)[best] = True
        given[name].view(-1)[best] = True
        for changed in {taken[0], name} & weights.keys():
            weights[changed].copy_(mended[changed])
    return _moved(mended, device)


def _moved(masks: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: mask.to(device) for name, mask in masks.items()}


def _first_cut(bare: fx.GraphModule, masks: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """Return the first layer without a live output, and which of its weights read one."""
    liveness = analyse(bare, paths_only=True)
    for call, rule in liveness.calls:
        name = f"{call.node.target}.weight"
        if name in masks and rule is not OPAQUE and not liveness.states[call.node].live.any():
            everything = torch.ones(masks[name].shape[0], dtype=torch.bool)
            live = liveness.states[call.inputs[0]].live
            return name, joined(everything, live, call.module).expand_as(masks[name])
    return None


def _smallest(
    masks: Mapping[str, Tensor], given: Mapping[str, Tensor], scores: Mapping[str, Tensor]
) -> tuple[str, int] | None:
    """Return the kept weight of smallest score that was not given, if one is left."""
    found = []
    for name, mask in masks.items():
        free = mask & ~given[name]
        if free.any():
            ranked = torch.where(free, scores[name], torch.inf)
            found.append((float(ranked.min()), name, int(ranked.argmin())))
    return min(found)[1:] if found else None
