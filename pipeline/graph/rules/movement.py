"""Operations that move elements: reshape, permute, shuffle, split, slice, crop and pad.

Where each element of the result comes from is found by carrying the operation itself out
on the numbers of the elements.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from pipeline.graph.rules import (
    Call,
    Channels,
    Cut,
    Rule,
    Slots,
    carried_out,
    free_axis,
    on_axis_only,
    operation,
    split_of,
)

_PLAIN = frozenset(
    (
        "flatten", "flip", "movedim", "moveaxis", "permute", "swapaxes", "swapdims", "t",
        "transpose", "unsqueeze",
    )
)  # fmt: skip
_SHUFFLES = ("channel_shuffle", "native_channel_shuffle")
_SIZED = frozenset(["view", "reshape", "expand", "_unsafe_view"])
_SLICES = frozenset(["getitem", "narrow", "slice"])
_PADDINGS = (
    nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d,
    nn.ConstantPad3d,
)  # fmt: skip


def find(call: Call) -> Rule | None:
    """Return the rule of an operation that moves elements of one value."""
    name = operation(call.node)
    if len(call.inputs) != 1:
        return None
    if split_of(call.node) is not None:
        return Part()
    if call.node.args[:1] != (call.inputs[0],):
        return None
    if name == "pad" or type(call.module) in _PADDINGS:
        return Pad()
    if type(call.module) is nn.ChannelShuffle or name in _SHUFFLES:
        return Shuffle()
    if name in _PLAIN or type(call.module) is nn.Flatten:
        return Movement()
    if name == "squeeze":
        return Squeeze()
    if name in _SIZED:
        return Sized()
    if name == "unflatten" or type(call.module) is nn.Unflatten:
        return Unflatten()
    return Slice() if name in _SLICES else None


def concrete(argument: Any) -> Any:
    """Return an argument with the values that nodes such as sizes had when traced.

    Raises:
        KeyError: a node has no such value: it is a tensor.
    """
    return fx.node.map_arg(argument, lambda node: node.meta["value"])


class Movement(Rule):
    """Elements in other places; nothing is computed."""

    def __init__(self) -> None:
        self._sources: dict[tuple[int, ...], Tensor | None] = {}

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels stay apart from the batch and from the image, and can be cut."""
        shape = inputs[0].shape
        source = self._source(call, shape)
        if source is None or source.shape[0] > 1:
            return False
        several = sum(size > 1 for size in source.shape) > 1
        if several and source.numel() != torch.Size(shape).numel():
            return False
        return self.can_cut(call, free_axis(shape), shape)

    def can_cut(self, call: Call, axis: int, shape: tuple[int, ...]) -> bool:
        """Tell whether the call can be narrowed on an axis of its input, of a known shape."""
        return True

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """Take each element's state from where it came."""
        state = inputs[0]
        source = self.source(call, state.shape)
        return Channels(state.live.flatten()[source], state.value.flatten()[source])

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """An element is read if it is in any place that is."""
        source = self.source(call, inputs[0].shape)
        read = torch.zeros(inputs[0].live.numel(), dtype=torch.bool)
        read[source[needed & output.live]] = True
        return [read.view(inputs[0].shape)]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Take the slots along; where channels span two axes, whole slices leave from one."""
        moved = inputs[0].flatten()[self.source(call, tuple(inputs[0].shape))]
        tie_slices(moved, slots)
        return moved

    def source(self, call: Call, shape: tuple[int, ...]) -> Tensor:
        """Return which element of a state each element of the result's state comes from."""
        source = self._source(call, shape)
        assert source is not None, "asked only where the rule fits"
        return source

    def _source(self, call: Call, shape: tuple[int, ...]) -> Tensor | None:
        if shape not in self._sources:
            numbers = torch.arange(torch.Size(shape).numel()).view(shape)
            try:
                moved = carried_out(call, numbers.expand(call.input_shapes[0]).contiguous())
            except (KeyError, RuntimeError, TypeError, ValueError):
                moved = None  # an argument that is a tensor, a call torch refuses integers
            if moved is not None and moved.dtype != torch.int64:
                moved = None  # the bits of the numbers, not the numbers
            self._sources[shape] = None if moved is None else _alike(moved)
        return self._sources[shape]


def _alike(numbers: Tensor) -> Tensor:
    """Take one of each axis along which all elements are alike."""
    for axis in range(numbers.dim()):
        first = numbers.narrow(axis, 0, 1)
        if bool((numbers == first).all()):
            numbers = first
    return numbers.contiguous()


def tie_slices(slots: Tensor, union: Slots) -> None:
    """Tie what lies in one slice across the axis that channels leave from."""
    if sum(size > 1 for size in slots.shape) > 1:
        slices = slots.movedim(free_axis(slots.shape), 0).flatten(1)
        union.tie(slices[:, :1].expand_as(slices[:, 1:]), slices[:, 1:])


class Squeeze(Movement):
    """Axes of size one taken away; named where a last channel would go with them."""

    def cut(self, call: Call, cut: Cut) -> None:
        """Name the axes."""
        kept = cut.inputs[0]
        if kept is None or len(kept) != 1:
            return
        before = call.input_shapes[0]
        axes = call.argument(1, "dim", None)
        if axes is None:
            axes = range(len(before))
        listed = axes if isinstance(axes, tuple | list | range) else (axes,)
        gone = tuple(axis for axis in listed if before[axis] == 1)
        _as_function(call, torch.squeeze, gone)


def _as_function(call: Call, function: Callable[..., Any], *others: Any) -> None:
    """Call a function in the place of a method, a module or another function."""
    call.node.op, call.node.target = "call_function", function
    call.node.args, call.node.kwargs = (call.inputs[0], *others), {}


def sizes_of(reshape: fx.Node) -> tuple[Any, ...]:
    """Return the sizes given to a reshape, one by one or as a list; or what holds them all."""
    listed = reshape.args[1:] or tuple(reshape.kwargs.values())
    if len(listed) == 1 and isinstance(listed[0], tuple | list):
        listed = tuple(listed[0])
    return listed


class Sized(Movement):
    """``view``, ``reshape`` and ``expand``, whose sizes are baked in or asked of a value."""

    def cut(self, call: Call, cut: Cut) -> None:
        """Rewrite the size of the axis that channels leave from.

        What is -1 stays so; what was computed becomes -1 where that is still free, so that
        the call goes on taking images of any size.
        """
        if cut.output is None:
            return
        listed = sizes_of(call.node)
        if len(listed) != len(call.shape):  # a torch.Size that was asked of a value
            with call.graph.graph.inserting_before(call.node):
                take = call.graph.graph.call_function
                listed = tuple(
                    take(operator.getitem, (listed[0], axis))
                    for axis in range(len(call.shape))
                )
        sizes, axis = list(listed), cut.output.axis
        for other, size in cut.sizes.items():  # which may be asked of what is narrower now
            sizes[other] = size
        if isinstance(sizes[axis], fx.Node) and -1 not in sizes:
            sizes[axis] = -1
        elif sizes[axis] != -1:
            sizes[axis] = len(cut.output)
        call.node.args, call.node.kwargs = (call.inputs[0], tuple(sizes)), {}

    def asks_sizes(self, call: Call) -> bool:
        """Tell whether a size comes from another node, which may be cut though this is not."""
        return len(call.node.all_input_nodes) > 1


class Unflatten(Movement):
    """One axis split into several."""

    def cut(self, call: Call, cut: Cut) -> None:
        """Rewrite the size of the axis that channels leave from."""
        if cut.output is None:
            return
        module = call.module
        if isinstance(module, nn.Unflatten):
            axis, given = int(module.dim), module.unflattened_size
        else:
            axis, given = int(call.argument(1, "dim", 0)), call.argument(2, "sizes", ())
        first = axis % len(call.input_shapes[0])
        sizes = [int(size) for size in given]
        place = cut.output.axis - first
        if 0 <= place < len(sizes) and sizes[place] != -1:
            sizes[place] = len(cut.output)
        _as_function(call, torch.unflatten, first, tuple(sizes))


class Shuffle(Movement):
    """Channels dealt out over groups: one of each group leaves with those of the others."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Channels lie on axis 1, each known by itself."""
        known = inputs[0].shape[1] == call.shape[1]
        return known and on_axis_only(inputs, 1) and super().fits(call, inputs)

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """Tie the channels of one place in every group."""
        if isinstance(call.module, nn.ChannelShuffle):
            groups = call.module.groups
        else:
            groups = int(call.argument(1, "groups", 1))
        slices = inputs[0].reshape(groups, -1).T
        slots.tie(slices[:, :1].expand_as(slices[:, 1:]), slices[:, 1:])
        return inputs[0].flatten()[self.source(call, tuple(inputs[0].shape))]


class Slice(Movement):
    """Part of the image, of the tokens, or of the channels."""

    def can_cut(self, call: Call, axis: int, shape: tuple[int, ...]) -> bool:
        """On the axis of the channels only a range in steps of one."""
        if shape[axis] == 1:
            return True
        chosen = self._ranges(call).get(axis, slice(None))
        return isinstance(chosen, slice) and chosen.step in (None, 1)

    def cut(self, call: Call, cut: Cut) -> None:
        """Move the ends of the range to where the channels that stay are."""
        kept, left = cut.inputs[0], cut.output
        if kept is None and left is None:
            return
        axis = kept.axis if kept is not None else free_axis(call.input_shapes[0])
        ranges = self._ranges(call)
        chosen = ranges.get(axis)
        if not isinstance(chosen, slice) or chosen == slice(None) or kept is None:
            return
        start, stop, _ = chosen.indices(call.input_shapes[0][axis])
        first = int((kept.index < start).sum())
        last = int((kept.index < stop).sum())
        if operation(call.node) == "getitem":
            index = list(self._index(call))
            place = _place_of(index, axis)
            index[place] = slice(first, last)
            call.node.args = (call.inputs[0], tuple(index))
        else:
            _as_function(call, torch.narrow, axis, first, last - first)

    def _ranges(self, call: Call) -> dict[int, Any]:
        """Return what is taken of each axis of the input."""
        rank = len(call.input_shapes[0])
        name = operation(call.node)
        if name == "getitem":
            taken = [part for part in self._index(call) if part is not None]
            return dict(enumerate(concrete(taken)))
        last = "length" if name == "narrow" else "end"
        listed = [(1, "dim", 0), (2, "start", None), (3, last, None), (4, "step", 1)]
        axis, start, end, step = (concrete(call.argument(*one)) for one in listed)
        if name == "narrow":
            start %= call.input_shapes[0][axis]
            return {axis % rank: slice(start, start + end)}
        return {axis % rank: slice(start, end, step)}

    def _index(self, call: Call) -> tuple[Any, ...]:
        """Return the index with a part for every axis in place of an ellipsis."""
        index = call.node.args[1]
        parts = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in parts:
            return tuple(parts)
        place = parts.index(Ellipsis)
        named = sum(part is not None for part in parts) - 1
        fill = [slice(None)] * (len(call.input_shapes[0]) - named)
        return (*parts[:place], *fill, *parts[place + 1 :])


def _place_of(index: list[Any], axis: int) -> int:
    """Return where in an index an axis of the input stands; None adds an axis."""
    places = [place for place, part in enumerate(index) if part is not None]
    return places[axis]


class Part(Movement):
    """One part of a ``chunk`` or ``split``, whose sizes are written down when one changes."""

    def can_cut(self, call: Call, axis: int, shape: tuple[int, ...]) -> bool:
        """Anything but ``unbind`` on the axis of the channels."""
        split = split_of(call.node)
        assert split is not None
        return operation(split) != "unbind" or shape[axis] == 1

    def cut(self, call: Call, cut: Cut) -> None:
        """Write the sizes that all parts have now into the call that splits."""
        split, axis, kept = split_of(call.node), self._axis(call), cut.inputs[0]
        if split is None or kept is None or kept.axis != axis or operation(split) == "unbind":
            return
        ends = list(accumulate(int(shape[axis]) for shape in split.meta["shapes"]))
        before = [int((kept.index < end).sum()) for end in [0, *ends]]
        sizes = [end - start for start, end in pairwise(before)]
        split.op, split.target = "call_function", torch.split
        split.args, split.kwargs = (call.inputs[0], sizes, axis), {}

    def _axis(self, call: Call) -> int:
        """Return the axis along which the value is split."""
        split = split_of(call.node)
        assert split is not None
        place = 1 if operation(split) == "unbind" else 2
        axis = split.args[place] if len(split.args) > place else split.kwargs.get("dim", 0)
        assert isinstance(axis, int)
        return axis % len(call.input_shapes[0])


class Pad(Rule):
    """Zeros around the image, or whole channels of them (shortcut A of CIFAR ResNets)."""

    def fits(self, call: Call, inputs: Sequence[Channels]) -> bool:
        """Amounts are numbers, and channels are added on one axis only."""
        amounts = _padding(call)
        if not amounts or not all(isinstance(amount, int) for amount in amounts):
            return False
        wide = [axis for axis, size in enumerate(inputs[0].shape) if size > 1]
        if len(wide) > 1:
            return False
        before, after = _amounts(call, free_axis(inputs[0].shape))
        return not wide or (min(before, after) >= 0 and (_fills(call) or before + after == 0))

    def forward(self, call: Call, inputs: Sequence[Channels]) -> Channels:
        """New channels are constant; a border makes other constants vary."""
        state, fill = inputs[0], _fill(call)
        axis, before, after = _widened(call, state.shape)
        amounts = _padding(call)
        border = any(amounts[2 * i] or amounts[2 * i + 1] for i in _others(call, axis))
        live = state.live | (state.value != fill) if border and _fills(call) else state.live
        shapes = [(*state.shape[:axis], n, *state.shape[axis + 1 :]) for n in (before, after)]
        new = [torch.full(shape, fill, dtype=torch.float64) for shape in shapes]
        dead = [torch.zeros(shape, dtype=torch.bool) for shape in shapes]
        return Channels.of(
            torch.cat([dead[0], live, dead[1]], axis),
            torch.cat([new[0], state.value, new[1]], axis),
        )

    def needs(
        self, call: Call, inputs: Sequence[Channels], output: Channels, needed: Tensor
    ) -> list[Tensor]:
        """Read the part that is not padding."""
        shape = inputs[0].shape
        axis, before, _ = _widened(call, shape)
        return [(needed & output.live).narrow(axis, before, shape[axis])]

    def couple(self, call: Call, inputs: Sequence[Tensor], slots: Slots) -> Tensor:
        """The padding has slots of its own."""
        shape = tuple(inputs[0].shape)
        axis, before, after = _widened(call, shape)
        fresh = [
            slots.fresh((*shape[:axis], count, *shape[axis + 1 :]))
            for count in (before, after)
        ]
        return torch.cat([fresh[0], inputs[0], fresh[1]], axis)

    def cut(self, call: Call, cut: Cut) -> None:
        """Pad by as many channels as stay on either side."""
        if cut.output is None:
            return
        axis, kept = cut.output.axis, cut.output.index
        before, after = _amounts(call, axis)
        if before + after == 0:
            return
        width = call.input_shapes[0][axis]
        amounts = list(_padding(call))
        place = 2 * (len(call.shape) - 1 - axis)
        amounts[place] = int((kept < before).sum())
        amounts[place + 1] = int((kept >= before + width).sum())
        _as_function(call, F.pad, tuple(amounts), "constant", _fill(call))


def _padding(call: Call) -> tuple[Any, ...]:
    """Return the amounts from the last axis backwards: left, right, top, bottom, ..."""
    if call.module is not None:
        return tuple(call.module.padding)  # type: ignore[arg-type]  # of a padding module
    amounts = call.argument(1, "pad", ())
    return tuple(amounts) if isinstance(amounts, tuple | list) else ()


def _fills(call: Call) -> bool:
    """Tell whether the border is a constant, not a mirror of the image."""
    return call.module is not None or call.argument(2, "mode", "constant") == "constant"


def _fill(call: Call) -> float:
    if call.module is not None:
        return float(getattr(call.module, "value", 0.0))
    return float(call.argument(3, "value", 0.0) or 0.0)


def _amounts(call: Call, axis: int) -> tuple[int, int]:
    """Return how much is added before and after on an axis of the result."""
    amounts = _padding(call)
    place = 2 * (len(call.shape) - 1 - axis)
    return tuple(amounts[place : place + 2]) if place < len(amounts) else (0, 0)


def _widened(call: Call, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return the axis of the channels, and how many are added before and after."""
    axis = free_axis(shape)
    return (axis, *_amounts(call, axis)) if shape[axis] > 1 else (axis, 0, 0)


def _others(call: Call, axis: int) -> list[int]:
    """Return which pairs of the amounts belong to other axes than that of the channels."""
    pairs = len(_padding(call)) // 2
    own = len(call.shape) - 1 - axis
    return [pair for pair in range(pairs) if pair != own]
