"""Whether a runtime would compute faster on the zeros that stay in a network's weights.

Source:
    XNNPACK, ``src/subgraph.c`` (the clusters it computes with sparse weights) and the
    "Sparse Inference" section of TensorFlow Lite's XNNPACK delegate.
"""

from __future__ import annotations

from torch import fx, nn

from pipeline.graph.kinds import kind, layer_of

#: Part of the weights of the 1x1 convolutions that has to be zero, strictly.
LEAST_ZEROS = 2 / 3
_BETWEEN = frozenset(
    (
        "placeholder", "output", "get_attr", "relu", "relu6", "hardtanh", "hardswish",
        "sigmoid", "hardsigmoid", "clamp", "add", "mul", "dropout", "identity", "batch_norm",
        "flatten", "adaptive_avg_pool2d", "mean", "contiguous", "upsample_bilinear2d",
        "stochastic_depth",
    )
)  # fmt: skip
_ENDS = ("adaptive_avg_pool2d", "mean")


def why_dense(network: fx.GraphModule) -> str | None:
    """Return why TFLite computes a network with dense weights, or nothing where it need not.

    XNNPACK skips zeros only in a chain that starts with a 3x3 convolution of stride 2 over
    three channels, goes on with 1x1 and depthwise convolutions and ends with the mean over
    all places. On x86 with AVX it never does; elsewhere only where more than two thirds of
    the weights of the 1x1 convolutions are zero.

    Args:
        network: traced, batch norms folded.
    """
    convolutions = [
        (node, layer)
        for node in network.graph.nodes
        if isinstance(layer := layer_of(network, node), nn.Conv2d)
    ]
    if not convolutions:
        return "it has no convolution"
    (first, stem), *rest = convolutions
    if not _is_stem(stem):
        return (
            f"{first.target} is {_words(stem)}; XNNPACK starts from a 3x3 convolution of "
            "stride 2 over 3 channels"
        )
    for node, layer in rest:
        if not (_is_pointwise(layer) or _is_depthwise(layer)):
            return f"{node.target} is {_words(layer)}, neither 1x1 nor depthwise"
    foreign = sorted(
        {name for node in network.graph.nodes if (name := _foreign(network, node))}
    )
    if foreign:
        return f"XNNPACK has no sparse form of {', '.join(foreign)}"
    if not any(kind(network, node) in _ENDS for node in network.graph.nodes):
        return "it does not end with the mean over all places"
    return _too_few([layer for _, layer in rest if _is_pointwise(layer)])


def _foreign(network: fx.GraphModule, node: fx.Node) -> str:
    if layer_of(network, node) is not None:
        return ""
    name = kind(network, node)
    return "" if name in _BETWEEN else name


def _too_few(layers: list[nn.Conv2d]) -> str | None:
    total = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    if total and zeros > LEAST_ZEROS * total:
        return None
    share = zeros / total if total else 0.0
    return f"{share:.0%} of the weights of its 1x1 convolutions are zero, not more than 67 %"


def _is_stem(layer: nn.Conv2d) -> bool:
    form = (layer.in_channels, layer.kernel_size, layer.stride, layer.padding, layer.groups)
    return form == (3, (3, 3), (2, 2), (1, 1), 1)


def _is_pointwise(layer: nn.Conv2d) -> bool:
    form = (layer.kernel_size, layer.stride, layer.padding, layer.groups)
    return form == ((1, 1), (1, 1), (0, 0), 1)


def _is_depthwise(layer: nn.Conv2d) -> bool:
    each = layer.groups == layer.in_channels == layer.out_channels
    return each and layer.kernel_size in ((3, 3), (5, 5)) and layer.dilation == (1, 1)


def _words(layer: nn.Conv2d) -> str:
    high, wide = layer.kernel_size
    return (
        f"a {high}x{wide} convolution of stride {layer.stride[0]} over "
        f"{layer.in_channels} channels"
    )
