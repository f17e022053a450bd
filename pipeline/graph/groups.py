"""Which channels can only leave together, and what leaves with them.

What compaction finds out from zeros, a method that prunes whole channels asks beforehand:
the couplings of the graph, whatever its weights are now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from pipeline.graph.channels import Liveness, analyse, couple
from pipeline.graph.rules import Call, Rule, line
from pipeline.graph.rules.weighted import Depthwise, Kernel, kernels, layer_of, widths
from pipeline.graph.trace import trace


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only leave together.

    Attributes:
        writes: per weight, by parameter name, the rows (filters) that make the channels.
        reads: per weight, the input columns through which the channels are read. A
            depthwise convolution writes its channels and has no columns of its own.
    """

    writes: dict[str, Tensor]
    reads: dict[str, Tensor]


@dataclass
class _Found:
    """A group while its members are collected."""

    writes: dict[str, list[int]] = field(default_factory=dict)
    reads: dict[str, list[int]] = field(default_factory=dict)

    def frozen(self) -> ChannelGroup:
        return ChannelGroup(_as_tensors(self.writes), _as_tensors(self.reads))


def channel_groups(model: nn.Module, shape: tuple[int, ...]) -> list[ChannelGroup]:
    """Return the groups of channels that can be removed from a network.

    Left out are channels of the interface (the image, the outputs, the width that an
    operation without a rule relies on) and those that no convolution or linear layer makes.

    Args:
        model: a plain network, without parametrizations; it is not changed. Its weights do
            not matter: a dead channel is a channel.
        shape: of one input image, ``(c, h, w)``.

    Returns:
        In the order of the forward pass.

    Raises:
        PareError: the network cannot be traced.
    """
    liveness = analyse(trace(model, shape))
    numbers, slots = couple(liveness)
    pinned = slots.pinned_groups() | _of_grouped_convolutions(liveness, numbers)
    found: dict[int, _Found] = {}
    for call, rule in liveness.calls:
        if not _has_filters(call, rule):
            continue
        name = f"{call.node.target}.weight"
        into, out = widths(layer_of(call))
        for row, number in enumerate(line(numbers[call.node], out).tolist()):
            found.setdefault(number, _Found()).writes.setdefault(name, []).append(row)
        if isinstance(rule, Depthwise):
            continue
        for column, number in enumerate(line(numbers[call.inputs[0]], into).tolist()):
            found.setdefault(number, _Found()).reads.setdefault(name, []).append(column)
    return [
        group.frozen()
        for number, group in found.items()
        if number not in pinned and group.writes
    ]


def group_masks(
    removed: Iterable[ChannelGroup], weights: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return masks that remove whole groups: their filters, and all that reads them.

    With the columns gone nobody asks for the constant that biases and batch norm leave in
    a channel without a filter, so that compaction removes the channel with all its parts.

    Args:
        removed: groups of the network that ``weights`` are of.
        weights: every weight a budget counts, by parameter name.

    Returns:
        Boolean masks of the same names and shapes, false where a weight leaves.
    """
    groups = list(removed)
    device = next(iter(weights.values())).device
    gone = torch.zeros(len(groups), dtype=torch.bool, device=device)
    spread = Grouping.of(groups, weights).spread(gone, weights)
    return {name: mask.clone() for name, mask in spread.items()}


@dataclass(frozen=True)
class Grouping:
    """Which group each row and each input column of every weight belongs to.

    Attributes:
        count: of the groups.
        rows: per weight, the group of each filter, or ``count`` where it cannot leave.
        columns: the same of each input column.
        areas: per weight, the positions of a kernel.
        families: of each group, the number it shares with those that write the same layers.
    """

    count: int
    rows: dict[str, Tensor]
    columns: dict[str, Tensor]
    areas: dict[str, int]
    families: Tensor

    @staticmethod
    def of(groups: Sequence[ChannelGroup], weights: Mapping[str, Tensor]) -> Grouping:
        """Number the groups in their order."""
        count = len(groups)
        rows = {n: torch.full(w.shape[:1], count) for n, w in weights.items()}
        columns = {n: torch.full(w.shape[1:2], count) for n, w in weights.items()}
        for number, group in enumerate(groups):
            for name, places in group.writes.items():
                rows[name][places] = number
            for name, places in group.reads.items():
                columns[name][places] = number
        areas = {name: weight[0, 0].numel() for name, weight in weights.items()}
        written = [tuple(sorted(group.writes)) for group in groups]
        number_of = {layers: n for n, layers in enumerate(dict.fromkeys(written))}
        families = torch.tensor([number_of[layers] for layers in written], dtype=torch.int64)
        return Grouping(count, rows, columns, areas, families)

    def spread(self, values: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the product of the values of its row's and its column's group, per weight.

        Args:
            values: one a group; what cannot leave counts as one.
            like: weights, by parameter name.
        """
        rows, columns = self.sides(values)
        found = {}
        for name, weight in like.items():
            row = rows[name].view(-1, *[1] * (weight.dim() - 1))
            column = columns[name].view(1, -1, *[1] * (weight.dim() - 2))
            found[name] = (row * column).expand(weight.shape)
        return found

    def sides(self, values: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the value of each row and of each column, whose products ``spread`` forms.

        Args:
            values: one a group; what cannot leave counts as one.
        """
        padded = torch.cat([values, values.new_ones(1)])
        rows = {name: padded[place.to(padded.device)] for name, place in self.rows.items()}
        columns = {n: padded[place.to(padded.device)] for n, place in self.columns.items()}
        return rows, columns

    def norms(self, weights: Mapping[str, Tensor], *, relative: bool) -> Tensor:
        """Return the root mean square of all weights that make each group's channels.

        Args:
            weights: by parameter name.
            relative: to the mean of each layer, so that layers of any scale compare.
        """
        device = next(iter(weights.values())).device
        sums = torch.zeros(self.count + 1, device=device)
        sizes = torch.zeros(self.count + 1, device=device)
        for name, weight in weights.items():
            power = weight.detach().float().square().flatten(1).mean(1)
            if relative:
                power = power / power.mean().clamp(min=torch.finfo(power.dtype).tiny)
            rows = self.rows[name].to(device)
            sums.index_add_(0, rows, power)
            sizes.index_add_(0, rows, torch.ones_like(power))
        return (sums / sizes.clamp(min=1)).sqrt()[:-1]

    def blocks(self, norms: Tensor, multiple: int) -> Tensor:
        """Return the number of each group's block, int64 ``[count]``.

        Groups of a family are put into blocks of ``multiple`` in the order of their norms,
        the largest first; what does not divide is the last block.

        >>> grouping = Grouping(5, {}, {}, {}, torch.zeros(5, dtype=torch.int64))
        >>> grouping.blocks(torch.tensor([0.1, 0.9, 0.5, 0.7, 0.3]), 2).tolist()
        [2, 0, 1, 0, 1]
        """
        found, first = torch.empty(self.count, dtype=torch.int64, device=norms.device), 0
        for family in self.families.unique().tolist():
            members = (self.families == family).nonzero().flatten().to(norms.device)
            order = members[torch.sort(norms[members], descending=True, stable=True).indices]
            found[order] = first + torch.arange(order.numel(), device=norms.device) // multiple
            first += -(-order.numel() // multiple)
        return found

    def layers(self) -> list[Tensor]:
        """Return the groups that write each layer which could lose all of its filters."""
        return [rows for rows in self.rows.values() if bool((rows < self.count).all())]


def _of_grouped_convolutions(
    liveness: Liveness, numbers: Mapping[fx.Node, Tensor]
) -> set[int]:
    """Return what convolutions in several groups read and make: no channel leaves alone."""
    return {
        number
        for call, rule in liveness.calls
        if _has_filters(call, rule) and not isinstance(rule, Depthwise)
        if kernels(layer_of(call)).shape[0] > 1
        for node in (call.node, call.inputs[0])
        for number in numbers[node].flatten().tolist()
    }


def _has_filters(call: Call, rule: Rule) -> bool:
    """Tell whether a call computes its channels from a weight that a budget counts."""
    return isinstance(rule, Kernel) and isinstance(call.module, nn.Conv2d | nn.Linear)


def _as_tensors(indices: Mapping[str, list[int]]) -> dict[str, Tensor]:
    return {name: torch.tensor(found) for name, found in indices.items()}
