"""Networks so small that their numbers are known by hand, and ways to prune them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.graph.counting import prunable

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
LAYERS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip


def settle(model: nn.Module, seed: int) -> nn.Module:
    """Give batch norms random statistics and every bias a random value, in place, ours."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like.dtype) * scale + shift

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.running_mean.copy_(draw(module.running_mean))
                module.running_var.copy_(draw(module.running_var).abs() + 0.5)
                if module.affine:
                    module.weight.copy_(draw(module.weight, 0.3, 1.0))
                    module.bias.copy_(draw(module.bias))
            elif isinstance(module, NORMS) and module.weight is not None:
                module.weight.copy_(draw(module.weight, 0.3, 1.0))
                if module.bias is not None:
                    module.bias.copy_(draw(module.bias))
            elif isinstance(module, LAYERS) and module.bias is not None:
                module.bias.copy_(draw(module.bias, 0.3))
            for name, scale in module.named_parameters(recurse=False):
                if name == "layer_scale":  # 1e-6 as it starts, which would hide errors
                    scale.copy_(draw(scale, 0.2, 0.5))
    return model.eval()


def whole(model: nn.Module, seed: int, largest: int = 2) -> nn.Module:
    """Make a float64 network of small integers: every sum is exact, in any order.

    Batch norms get eps 0 and power-of-two statistics, so that they are exact too.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randint(-largest, largest + 1, like.shape, generator=generator).double()

    model = model.double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BATCH_NORMS):
                module.eps = 0.0
                module.running_mean.copy_(draw(module.running_mean))
                module.running_var.copy_(4.0 ** draw(module.running_var))
                module.weight.copy_(draw(module.weight))
                module.bias.copy_(draw(module.bias))
            elif isinstance(module, (*LAYERS, nn.PReLU)):
                module.weight.copy_(draw(module.weight))
                if getattr(module, "bias", None) is not None:
                    module.bias.copy_(draw(module.bias))
    return model.eval()


def prune_rows(model: nn.Module, seed: int, fraction: float = 0.5) -> nn.Module:
    """Zero random filters, biases left as they are; ours, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[torch.rand(weight.shape[0], generator=generator) < fraction] = 0
    return model


def prune_weights(model: nn.Module, seed: int, fraction: float = 0.98) -> nn.Module:
    """Zero random single weights; ours, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in prunable(model).values():
            weight[torch.rand(weight.shape, generator=generator) < fraction] = 0
    return model


def kill(layer: nn.Module, channels: list[int]) -> None:
    """Zero the filters of some channels; the bias stays."""
    with torch.no_grad():
        layer.weight[channels] = 0
