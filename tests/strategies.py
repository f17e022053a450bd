"""Random small networks and masks, for the property tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

ACTIVATIONS = ("relu", "none", "relu6", "leaky")


class RandomNet(nn.Module):
    """Convolutions in a row with what breaks compaction between them.

    Each step is ``plain``, ``residual``, ``concat``, ``depthwise`` or ``fork`` (two readers);
    batch norm before or after the activation, or none; any padding, stride and bias.
    """

    def __init__(
        self, steps: list[dict[str, object]], width: int, classes: int, *, flatten: bool
    ) -> None:
        super().__init__()
        self.steps = steps
        self.flatten = flatten
        channels = 2
        self.layers = nn.ModuleList()
        for number, step in enumerate(steps):
            kind = step["kind"] if number else "plain"
            same = {**step, "stride": 1, "padding": "same"}
            out = int(step["out"]) if kind in ("plain", "concat") else channels
            if kind == "plain":
                layers = {"main": _conv(channels, out, step)}
            elif kind == "depthwise":
                layers = {"main": _conv(channels, out, step, groups=channels)}
            else:
                layers = {"main": _conv(channels, out, same)}
            if kind == "fork":
                layers["side"] = _conv(channels, out, same)
            norm = nn.BatchNorm2d(out) if step["norm"] != "none" else nn.Identity()
            self.layers.append(nn.ModuleDict({**layers, "norm": norm}))
            channels = channels + out if kind == "concat" else out
        self.pool = nn.AdaptiveAvgPool2d(1 if not flatten else 2)
        self.fc1 = nn.Linear(channels * (4 if flatten else 1), width)
        self.fc2 = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        first = True
        for step, layer in zip(self.steps, self.layers, strict=True):
            kind = "plain" if first else step["kind"]
            y = layer["main"](x)
            if step["norm"] == "before":
                y = _act(layer["norm"](y), step)
            else:
                y = _act(y, step)
                y = layer["norm"](y) if step["norm"] == "after" else y
            if kind == "residual":
                y = x + y
            elif kind == "fork":
                y = y + layer["side"](x)
            elif kind == "concat":
                y = torch.cat([x, y], 1)
            x, first = y, False
        # Max pooling keeps integers whole; a mean over 1, 4 or 16 pixels is exact too.
        x = F.adaptive_max_pool2d(x, 4)
        x = self.pool(x).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def _act(x: Tensor, step: dict[str, object]) -> Tensor:
    kind = step["act"]
    if kind == "relu":
        return F.relu(x)
    if kind == "relu6":
        return F.relu6(x)
    return F.leaky_relu(x, 0.25) if kind == "leaky" else x


def _conv(c_in: int, c_out: int, step: dict[str, object], groups: int = 1) -> nn.Conv2d:
    padding = step["padding"]
    stride = int(step["stride"]) if padding != "same" else 1
    return nn.Conv2d(
        c_in, c_out, int(step["kernel"]), stride=stride, padding=padding, groups=groups,
        bias=bool(step["bias"]), padding_mode=str(step["mode"]) if padding != 0 else "zeros",
    )  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> RandomNet:
    steps = []
    strided = draw(st.integers(0, 3))  # at most one: every step has to fit in 16 pixels
    for number in range(draw(st.integers(1, 4))):
        kernel = draw(st.sampled_from([1, 3]))
        steps.append(
            {
                "kind": draw(
                    st.sampled_from(["plain", "residual", "concat", "depthwise", "fork"])
                ),
                "out": draw(st.integers(1, 4)),
                "kernel": kernel,
                "padding": draw(st.sampled_from([0, kernel // 2, "same"])),
                "stride": 2 if number == strided else 1,
                "mode": draw(st.sampled_from(["zeros", "zeros", "replicate"])),
                "bias": draw(st.booleans()),
                "norm": draw(st.sampled_from(["none", "before", "after"])),
                "act": draw(st.sampled_from(ACTIVATIONS)),
            }
        )
    return RandomNet(
        steps, draw(st.integers(1, 4)), draw(st.integers(1, 3)), flatten=draw(st.booleans())
    )


seeds = st.integers(0, 2**31 - 1)
fractions = st.sampled_from([0.0, 0.3, 0.6, 0.9, 1.0])
