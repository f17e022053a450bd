"""Random networks of what modern ones are made of, and ways to prune all of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from tiny import LAYERS, NORMS
from torch import Tensor, nn

#: Kinds of blocks that keep integers whole, and those that don't.
WHOLE = (
    "plain", "residual", "depthwise", "grouped", "shuffle", "shuffle by hand", "chunk",
    "split", "transposed 2", "transposed 3", "prelu", "unflatten", "max pool", "resize",
)  # fmt: skip
REAL = (
    "squeeze and excite", "convnext", "group norm", "instance norm", "average",
    "average without padding",
)  # fmt: skip


class Step:
    """What a block is made with."""

    def __init__(self, kind: str, out: int, groups: int, *, padded: bool, bias: bool) -> None:
        self.kind, self.out, self.groups = kind, out, groups
        self.padded, self.bias = padded, bias

    def __repr__(self) -> str:
        flags = f"padded={self.padded}, bias={self.bias}"
        return f"Step({self.kind!r}, {self.out}, {self.groups}, {flags})"


class Block(nn.Module):
    """One step of a network; the image keeps its size."""

    def __init__(self, width: int, step: Step) -> None:
        super().__init__()
        self.kind = kind = step.kind
        self.groups = step.groups
        self.padded = step.padded
        self.width = step.out
        same = {"padding": 1, "bias": step.bias}
        if kind in ("shuffle", "shuffle by hand", "grouped", "unflatten"):
            inner = self.width = step.out * step.groups
            self.first = nn.Conv2d(width, inner, 1, bias=step.bias)
            self.shuffle = nn.ChannelShuffle(step.groups)
            self.deal = nn.Unflatten(1, (step.groups, step.out))
            more = step.groups * 2
            if kind == "grouped":
                self.width = more
                self.main = nn.Conv2d(inner, more, 3, groups=step.groups, **same)
        elif kind in ("chunk", "split"):
            self.first = nn.Conv2d(width, 2 * step.out, 1, bias=step.bias)
            self.main = nn.Conv2d(step.out, step.out, 3, **same)
            self.width = 2 * step.out
        elif kind == "transposed 2":
            self.main = nn.ConvTranspose2d(width, step.out, 2, stride=2, bias=step.bias)
        elif kind == "transposed 3":
            self.main = nn.ConvTranspose2d(
                width, step.out, 3, stride=2, output_padding=1, **same
            )
        elif kind == "plain":
            size = 3 if step.padded else 1
            self.main = nn.Conv2d(width, step.out, size, padding=size // 2, bias=step.bias)
            self.norm = nn.BatchNorm2d(step.out)
        else:
            self._keep_width(width, step)

    def _keep_width(self, width: int, step: Step) -> None:
        """Build one of the blocks after which there are as many channels as before."""
        self.width = width
        if self.kind in ("residual", "depthwise"):
            groups = width if self.kind == "depthwise" else 1
            self.main = nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=step.bias)
        elif self.kind == "squeeze and excite":
            self.down, self.up = nn.Conv2d(width, step.out, 1), nn.Conv2d(step.out, width, 1)
        elif self.kind == "convnext":
            self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
            self.norm = nn.LayerNorm(width)
            self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
            self.layer_scale = nn.Parameter(torch.ones(width, 1, 1))
        elif self.kind == "group norm":
            self.norm = nn.GroupNorm(2 if width % 2 == 0 else 1, width)
        elif self.kind == "instance norm":
            self.norm = nn.InstanceNorm2d(width, affine=step.bias)
        elif self.kind == "prelu":
            self.main = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        kind = self.kind
        if kind == "plain":
            return F.relu(self.norm(self.main(x)))
        if kind == "residual":
            return F.relu(x + self.main(x))
        if kind in ("depthwise", "prelu"):
            return self.main(x)
        if kind == "grouped":
            return self.main(F.relu(self.first(x)))
        if kind == "shuffle":
            return self.shuffle(F.relu(self.first(x)))
        if kind == "shuffle by hand":
            x = F.relu(self.first(x))
            n, c, h, w = x.size()
            x = x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).contiguous()
            return x.view(n, c, h, w)
        if kind == "unflatten":
            x = self.first(x)
            x = self.deal(x) if self.padded else x.unflatten(1, (self.groups, -1))
            return F.relu(x.flatten(1, 2))
        if kind in ("chunk", "split"):
            x = F.relu(self.first(x))
            left, right = x.chunk(2, 1) if kind == "chunk" else x.split(x.shape[1] // 2, 1)
            return torch.cat([left, self.main(right)], 1)
        if kind in ("transposed 2", "transposed 3"):
            return F.max_pool2d(F.relu(self.main(x)), 2)
        return self._pooled_or_normed(x)

    def _pooled_or_normed(self, x: Tensor) -> Tensor:
        kind = self.kind
        if kind == "max pool":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        if kind == "resize":
            return F.max_pool2d(F.interpolate(x, scale_factor=2), 2)
        if kind in ("average", "average without padding"):
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=kind == "average")
        if kind == "squeeze and excite":
            gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
            return x * (torch.sigmoid(gate) if self.padded else F.hardsigmoid(gate))
        if kind == "convnext":
            y = self.norm(self.mix(x).permute(0, 2, 3, 1))
            y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
            return x + self.layer_scale * y
        return F.relu(self.norm(x))


class WiderNet(nn.Module):
    """Blocks in a row; the second output is made of what one of them gives."""

    def __init__(self, steps: list[Step], width: int) -> None:
        super().__init__()
        self.steps = steps
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.blocks = nn.ModuleList()
        for step in steps:
            self.blocks.append(Block(width, step))
            width = self.blocks[-1].width
        self.mix1 = nn.Conv2d(width, 4, 1)
        self.mix2 = nn.Conv2d(4, 3, 3, padding=1)
        self.side = nn.Conv2d(width, 2, 1)
        self.fc = nn.Linear(12, 3)

    def __repr__(self) -> str:
        return f"WiderNet({self.steps}, {self.stem.out_channels})"

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        y = F.relu(self.mix2(F.relu(self.mix1(x))))
        return self.fc(F.adaptive_max_pool2d(y, 2).flatten(1)), self.side(x)


@st.composite
def wider(draw: st.DrawFn, kinds: tuple[str, ...]) -> WiderNet:
    steps = [
        Step(
            draw(st.sampled_from(kinds)),
            draw(st.integers(1, 3)),
            draw(st.integers(2, 4)),
            padded=draw(st.booleans()),
            bias=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    return WiderNet(steps, draw(st.integers(1, 4)))


@torch.no_grad()
def prune(model: nn.Module, seed: int, fraction: float, *, rows: bool) -> nn.Module:
    """Zero random filters, or single weights, of every kernel, and some scales of norms.

    Every fifth layer loses everything. Ours, in place.
    """
    generator = torch.Generator().manual_seed(seed)

    def chosen(*shape: int, part: float = fraction) -> Tensor:
        return torch.rand(shape, generator=generator) < part

    for module in model.modules():
        if isinstance(module, LAYERS):
            weight = module.weight
            if isinstance(module, nn.ConvTranspose2d):
                weight = weight.transpose(0, 1)
            weight[chosen(len(weight)) if rows else chosen(*weight.shape)] = 0
            if fraction and chosen(1, part=0.2):
                weight.zero_()
        elif isinstance(module, NORMS) and module.weight is not None:
            module.weight[chosen(len(module.weight), part=fraction / 2)] = 0
    return model
