"""Batch norm folded into the layer before it, for files that are only run."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from pipeline.graph.subnormals import flush_subnormals

Norm = nn.BatchNorm1d | nn.BatchNorm2d


@torch.no_grad()
def fold_batch_norm(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a copy in which every batch norm behind a layer of its own is folded into it.

    A batch norm whose layer has other readers stays. Folded values below the normal range
    are set to zero: a batch norm over a dead channel leaves subnormal biases that slow a
    CPU down.
    """
    folded = copy.deepcopy(graph).eval()
    _forget_counters(folded)
    for node in list(folded.graph.nodes):
        pair = _pair(folded, node)
        if pair is None:
            continue
        layer, norm = pair
        previous = node.args[0]
        fused = _fuse(layer, norm)
        folded.set_submodule(previous.target, fused)
        node.replace_all_uses_with(previous)
        folded.graph.erase_node(node)
        folded.delete_submodule(node.target)
    folded.recompile()
    flush_subnormals(folded)
    return folded


def _forget_counters(graph: fx.GraphModule) -> None:
    """Erase reads of what nobody uses: ``torch.export`` reads each norm's batch counter."""
    for node in reversed(list(graph.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.graph.erase_node(node)


def _pair(graph: fx.GraphModule, node: fx.Node) -> tuple[nn.Module, Norm] | None:
    """Return a layer and the batch norm that alone reads it, each called once."""
    if node.op != "call_module" or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    norm, previous = graph.get_submodule(str(node.target)), node.args[0]
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) or previous.op != "call_module":
        return None
    layer = graph.get_submodule(str(previous.target))
    if norm.running_mean is None or len(previous.users) != 1:
        return None
    targets = [n.target for n in graph.graph.nodes if n.op == "call_module"]
    if targets.count(previous.target) > 1 or targets.count(node.target) > 1:
        return None
    flat = len(previous.meta.get("shape", ())) == 2  # else the norm is not on the features
    fits = (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)) or (
        isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d) and flat
    )
    return (layer, norm) if fits else None


def _fuse(layer: nn.Module, norm: Norm) -> nn.Module:
    """Fuse in float64, so that the folded values are rounded once."""
    dtype = next(layer.parameters()).dtype
    wide_layer, wide_norm = copy.deepcopy(layer).double(), copy.deepcopy(norm).double()
    if isinstance(wide_layer, nn.Conv2d):
        return fuse_conv_bn_eval(wide_layer, wide_norm).to(dtype)
    assert isinstance(wide_layer, nn.Linear)
    return fuse_linear_bn_eval(wide_layer, wide_norm).to(dtype)
