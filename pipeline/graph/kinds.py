"""What a node of a traced network does, by one name for a module, function and method."""

from __future__ import annotations

import re
from collections import Counter

from torch import fx, nn

from pipeline.core.errors import PareError
from pipeline.graph.rules import operation

#: Layers whose weights are quantized and scaled: everything with a kernel.
Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

#: Modules whose functional name does not follow from the name of their class.
_OTHERWISE = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.SiLU: "silu",
    nn.LogSoftmax: "log_softmax",
    nn.BatchNorm1d: "batch_norm",
    nn.BatchNorm2d: "batch_norm",
    nn.BatchNorm3d: "batch_norm",
}
_SAME = {
    "swish": "silu",
    "constant_pad_nd": "pad",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
}


def kind(network: fx.GraphModule, node: fx.Node) -> str:
    """Return what a node does, such as ``conv2d``, ``relu`` or ``max_pool2d``.

    ``nn.ReLU()``, ``F.relu``, ``torch.relu`` and ``x.relu_()`` are all ``relu``. A function
    that is not torch's is ``other``; a graph's inputs, parameters and result are named for
    what they are.

    Args:
        network: the graph's modules.
        node: of its graph.
    """
    if node.op != "call_module":
        name = operation(node) if node.op in ("call_function", "call_method") else node.op
        return _SAME.get(name or "other", name or "other")
    module = network.get_submodule(str(node.target))
    found = _OTHERWISE.get(type(module))
    if found is not None:
        return found
    # MaxPool2d -> max_pool2d, AdaptiveAvgPool2d -> adaptive_avg_pool2d, Conv2d -> conv2d
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(module).__name__).lower()
    return re.sub(r"_?(\d)_?d$", r"\1d", snake)


def layer_of(network: fx.GraphModule, node: fx.Node) -> Layer | None:
    """Return the convolution or linear layer that a node calls, or None."""
    if node.op != "call_module":
        return None
    module = network.get_submodule(str(node.target))
    return module if isinstance(module, LAYERS) else None


def layers(network: fx.GraphModule) -> dict[str, fx.Node]:
    """Return the call of each convolution and linear layer that is called once, in order.

    A layer that is called twice, that shares a tensor with another, or whose weight or bias
    the graph also reads by itself is left out: what is done to it for one reader would be
    done to the other.

    Raises:
        PareError: the network was not traced by ``pipeline.graph.trace``.
    """
    for node in network.graph.nodes:
        shape_of(node)  # without shapes, nothing that follows would find its channels
    calls = [(n, m) for n in network.graph.nodes if (m := layer_of(network, n)) is not None]
    uses = Counter(id(tensor) for _, module in calls for tensor in module.parameters())
    uses.update(
        id(_attribute(network, str(node.target)))
        for node in network.graph.nodes
        if node.op == "get_attr"
    )
    return {
        str(node.target): node
        for node, module in calls
        if all(uses[id(tensor)] == 1 for tensor in module.parameters())
    }


def _attribute(network: fx.GraphModule, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(network.get_submodule(owner), name)


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's value for a batch of two, ``()`` where it is no tensor.

    Raises:
        PareError: the graph was traced by something else than ``pipeline.graph.trace``.
    """
    if not node.meta.keys() & {"shape", "shapes", "value"}:
        raise PareError(
            f"the value {node.name!r} of the network has no known shape. "
            "Trace the network with pipeline.graph.trace first."
        )
    return tuple(node.meta.get("shape", ()))


def readers(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that read a value's numbers, not only its size."""
    return [user for user in node.users if not _asks_for_size(user)]


def tensors_read(node: fx.Node) -> list[fx.Node]:
    """Return the tensors among what a node reads, without sizes and other numbers."""
    return [one for one in node.all_input_nodes if shape_of(one) or "shapes" in one.meta]


def _asks_for_size(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    return operation(node) in ("size", "dim", "sym_size") if node.op != "output" else False
