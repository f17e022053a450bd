"""What a network takes at least, counted before it is trained, held against a target's limits.

The least is what is left if pruning goes as well as it ever may: what no training can get
below. A network whose least breaks a limit in every number format is not worth an epoch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from pipeline.core.errors import PareError
from pipeline.core.plugins import METHODS
from pipeline.core.record import Record
from pipeline.core.target import Dtype, Format, Target
from pipeline.data import load
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.surgery import compact
from pipeline.graph.trace import trace
from pipeline.methods import create, masked
from pipeline.models import build
from pipeline.profilers.candidate import Candidate, GraphFigures, peak_ram
from pipeline.profilers.file_graph import FileGraph
from pipeline.profilers.limits import latency, sizes
from pipeline.profilers.limits.check import Check
from pipeline.profilers.memory import MemoryPlan
from pipeline.profilers.predictor import bound, predict
from pipeline.profilers.read_network import read_network
from pipeline.search.family import Kind, Member

#: Bytes of a file beside its weights, at least, and of each convolution and product in it:
#: what every file says of itself and of a layer. A test holds them against files.
_CONTAINER = {"onnx": 1_200, "tflite": 3_000}
_LAYER = {"onnx": 200, "tflite": 400}
_LAYER_OF_INTEGERS = 700  # in ONNX: its scales and zero points are tensors, converted by nodes
#: Of the weights that a budget keeps some are on no path to the output and leave with their
#: channel. In benchmarks/results/methods_cpu.csv 70 % or more stay where 2 % of the network or
#: more are kept, and 43 % where 1 % is; these are on the safe side of it.
_EFFECTIVE, _EFFECTIVE_OF_FEW, _FEW = 0.5, 0.2, 0.02
#: Of whole filters it is known before which leave; in training a few more may die.
_ALIVE = 0.9

_BITS: dict[Dtype, int] = {
    "fp32": 32, "fp16": 16, "dynamic": 8, "int8": 8, "int16x8": 8, "w8": 8, "int4": 4,
}  # fmt: skip
_ACTIVATION_BYTES: dict[Dtype, int] = {"int8": 1, "int4": 1, "int16x8": 2}


def _activation_bytes(format_: Format, dtype: Dtype) -> int:
    """Return the bytes of an activation; TFLite widens half floats before it computes."""
    if (format_, dtype) == ("onnx", "fp16"):
        return 2
    return _ACTIVATION_BYTES.get(dtype, 4)


class Least(Record):
    """Parts of a network that are left at least after its training.

    >>> Least.of("weights", 0.1)
    Least(weights=0.05, macs=0.05, activations=0.0)
    >>> Least.of("channels", 0.5)
    Least(weights=0.9, macs=0.9, activations=0.9)
    """

    weights: float
    macs: float
    activations: float

    @classmethod
    def of_member(cls, member: Member) -> Least:
        """Return it for a candidate; a method that finds its own rate may keep any less."""
        method, _ = METHODS.load(member.trial.recipe.method.name)
        free = method.chooses_rate and member.kind != "channels"
        return cls.of(member.kind, 0.0 if free else member.part)

    @classmethod
    def of(cls, kind: Kind, part: float) -> Least:
        """Return what a way of pruning leaves at least.

        Args:
            kind: whether nothing, weights, or whole channels leave.
            part: that is kept; whole channels have left the network already.
        """
        if kind == "dense":
            return cls(weights=1.0, macs=1.0, activations=1.0)
        if kind == "channels":
            return cls(weights=_ALIVE, macs=_ALIVE, activations=_ALIVE)
        left = part * (_EFFECTIVE if part >= _FEW else _EFFECTIVE_OF_FEW)
        weights = left if kind == "weights" else 0.0  # few weights may make all MACs
        return cls(weights=weights, macs=left, activations=0.0)


class Hope(Record):
    """Whether a network may fit a target; the limits that its best form breaks if not.

    Attributes:
        why: there is no such network at all, where it is no limit of the target's.
    """

    possible: bool
    broken: tuple[Check, ...] = ()
    form: str = ""
    why: str = ""

    def __str__(self) -> str:
        """Say which limits the network can't keep, with the figures of its best form."""
        if self.why or self.possible:
            return self.why
        limits = "; ".join(f"{check.name}: at least {check.why}" for check in self.broken)
        return f"{limits} ({self.form})"


class Unpayable(PareError):
    """A budget pays for no network of this kind."""


def network(member: Member, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build a network of a family, untrained; where whole channels leave, without them.

    How many filters leave each layer follows from the budget alone; which ones, from their
    weights, and nothing that is counted depends on that.

    Raises:
        Unpayable: its budget pays for no network.
        PareError: the network can't be built or traced.
    """
    recipe = member.trial.recipe
    choice, (channels, height, _) = recipe.model, shape
    model = build(
        choice.name, choice.options,
        classes=classes, channels=channels, size=height, seed=recipe.seed,
    )  # fmt: skip
    try:
        method = create(recipe.method, recipe.budget, shape)
        if member.kind != "channels":
            method.prices(model)
            return model
        attached = method.attach(model, method.phases(recipe.train.epochs)[0])
        masks = method.masks(attached)
    except PareError as error:
        raise Unpayable(str(error)) from error
    return compact(masked(model, masks), shape)[0]


class Counting:
    """Counts candidates for targets; the images' shape is looked up once for each data set."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._shapes: dict[str, tuple[tuple[int, int, int], int]] = {}

    def before(self, member: Member) -> dict[str, Hope]:
        """Return for each target whether a candidate may fit, without any training.

        Raises:
            PareError: the data can't be read, or the network not traced.
        """
        try:
            model, shape = self._network(member)
        except Unpayable as error:
            none = Hope(possible=False, why=str(error))
            return {target.id: none for target in self._targets}
        own = Counted(model, shape, Least.of_member(member))
        return {target.id: own.hope(target) for target in self._targets}

    def after(self, member: Member, parameters: int, macs: int) -> dict[str, Hope]:
        """Return the same of a candidate that was trained and compacted.

        Args:
            member: the candidate.
            parameters: that are left.
            macs: that are left.
        """
        model, shape = self._network(member)
        left = Counted(model, shape, Least.of_member(member)).left(parameters, macs)
        return {target.id: left.hope(target) for target in self._targets}

    def _network(self, member: Member) -> tuple[nn.Module, tuple[int, int, int]]:
        choice = member.trial.recipe.data
        key = choice.model_dump_json()
        if key not in self._shapes:
            data = load(choice)
            self._shapes[key] = (data.shape, len(data.classes))
        shape, classes = self._shapes[key]
        return network(member, shape, classes), shape


class Counted:
    """A network that is not trained yet, counted once for each width of its activations."""

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], least: Least) -> None:
        """Take a network.

        Args:
            model: of :func:`network`.
            shape: of one image, ``(c, h, w)``.
            least: what is left of it at least.
        """
        self._model, self._shape, self.least = model, shape, least
        self._parameters = _parameters(model)
        self._stored = _parameters(fold_batch_norm(trace(model, shape)))
        self._read: dict[int, tuple[FileGraph, GraphFigures]] = {}

    def hope(self, target: Target) -> Hope:
        """Tell whether any file of the network may fit a target.

        Raises:
            PareError: the network can't be traced.
        """
        forms = []
        for candidate in self._candidates(target):
            checks = [*sizes.checks(candidate, target), *latency.checks(candidate, target)]
            broken = tuple(check for check in checks if check.passed is False)
            if not broken:
                return Hope(possible=True, form=candidate.file)
            forms.append(Hope(possible=False, broken=broken, form=candidate.file))
        return min(forms, key=lambda one: (len(one.broken), one.form))

    def left(self, parameters: int, macs: int) -> Counted:
        """Return the same network, of which so many parameters and MACs are left."""
        graph, _ = self._counted(1)
        parts = {"weights": parameters / self._parameters, "macs": macs / graph.macs}
        other = copy.copy(self)  # what was counted of the network is counted for both
        other.least = self.least.model_copy(update=parts)
        return other

    def least_bytes(self, format: Format, dtype: Dtype) -> int:  # noqa: A002
        """Return what a file of this form weighs at least."""
        graph, _ = self._counted(_activation_bytes(format, dtype))
        return self._weight_bytes(dtype) + _beside(graph, format, dtype)

    def _weight_bytes(self, dtype: Dtype) -> int:
        return int(self._stored * self.least.weights) * _BITS[dtype] // 8

    def _candidates(self, target: Target) -> Iterator[Candidate]:
        """Yield the smallest file of each form that the target takes."""
        for format_ in target.constraints.formats:
            for dtype in target.constraints.dtypes:
                yield self._candidate(target, format_, dtype)

    def _candidate(self, target: Target, format_: Format, dtype: Dtype) -> Candidate:
        dense, known = self._counted(_activation_bytes(format_, dtype))
        weights = self._weight_bytes(dtype)
        memory = _memory(known.memory, dense, self.least)
        figures = known.model_copy(update={"memory": memory, "weight_bytes": weights})
        graph = _scaled(dense, self.least, format_, dtype, weights)
        return Candidate(
            file=f"{format_} {dtype}",
            format=format_,
            scheme="",
            dtype=dtype,
            bytes=self.least_bytes(format_, dtype),
            graph=figures,
            predicted=predict(graph, target),
            bound=bound(graph, target),
            peak_ram=peak_ram(figures, target.memory),
        )

    def _counted(self, width: int) -> tuple[FileGraph, GraphFigures]:
        if width not in self._read:
            graph = read_network(self._model, self._shape, element_bytes=width)
            self._read[width] = graph, GraphFigures.of(graph)
        return self._read[width]


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _beside(graph: FileGraph, format_: Format, dtype: Dtype) -> int:
    """Return the bytes of a file that are no weights, at least."""
    layers = sum(op.macs > 0 for op in graph.ops)
    of_integers = format_ == "onnx" and dtype in ("int8", "dynamic", "int16x8", "int4")
    return _CONTAINER[format_] + layers * (
        _LAYER_OF_INTEGERS if of_integers else _LAYER[format_]
    )


def _scaled(
    graph: FileGraph, least: Least, format_: Format, dtype: Dtype, weights: int
) -> FileGraph:
    ops = tuple(
        op.model_copy(
            update={
                "macs": int(op.macs * least.macs),
                "activation_bytes": int(op.activation_bytes * least.activations),
            }
        )
        for op in graph.ops
    )
    more: dict[str, Any] = {"format": format_, "dtype": dtype, "weight_bytes": weights}
    return graph.model_copy(update={"ops": ops, **more})


def _memory(known: MemoryPlan, dense: FileGraph, least: Least) -> MemoryPlan:
    """Return what activations take at least: the image is there, whatever is pruned."""
    image = sum(t.bytes for t in dense.tensors if t.name in dense.inputs)
    names = ("liveness_bytes", "greedy_bytes", "naive_bytes", "in_place_bytes")
    smaller = {
        name: max(image, int(getattr(known, name) * least.activations)) for name in names
    }
    return known.model_copy(update=smaller)
