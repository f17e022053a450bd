"""Training-and-pruning methods: one file each, four questions, one loop for all of them.

A method says what it attaches to the model, what it adds to the loss, what it does after a
step and an epoch, and which weights it keeps in the end. The loop never changes. Several
rounds, or a fine-tuning after the pruning, are phases of the same loop.

What all methods share and no paper has, so that they can be compared, each Source section
calls the common deviations: optimizer (SGD with Nesterov momentum, or Adam) and learning-rate
schedule are the recipe's; the epoch that is kept is the best one once pruned, on a validation
split of its own; batch norm is recalibrated on the network that is kept
(``train.recalibration_batches``); and what ranks trained weights keeps every layer connected
(``budget.connected``). Options turn the last two off.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pipeline.core.budget import Budget, Unit, whole_part
from pipeline.core.errors import PareError
from pipeline.core.plugins import METHODS
from pipeline.core.recipe import Choice
from pipeline.core.record import Record, parse
from pipeline.graph.connect import connect
from pipeline.graph.counting import PRUNABLE, prunable, prunable_count
from pipeline.graph.ranking import top_k as top_k
from pipeline.graph.ranking import top_k_by_layer as top_k_by_layer
from pipeline.graph.ranking import within
from pipeline.graph.tariff import Tariff, tariff

P = TypeVar("P", bound=nn.Module)
_TRIES = 20


class Phase(Record):
    """A stretch of training with its own optimizer and learning-rate schedule.

    Attributes:
        lr_factor: of the recipe's learning rate.
    """

    name: str
    epochs: int
    lr_factor: float = 1.0


class Method:
    """Base of all methods: trains the network as it is and keeps every weight."""

    class Params(Record):
        """Options of the method table."""

    #: Whether the method obeys a budget; one that does not refuses any but the whole.
    prunes: ClassVar[bool] = True
    #: Whether it finds its own rate: the budget is then the most it keeps, not the number.
    chooses_rate: ClassVar[bool] = False
    #: What its budget may be counted in; without a shape, weights only.
    units: ClassVar[frozenset[Unit]] = frozenset({"weights"})
    #: Whether its first phase trains every weight, prunes none and adds nothing to the loss.
    starts_dense: ClassVar[bool] = False
    #: Whether it removes whole channels, so that a budget's multiple can be obeyed.
    whole_channels: ClassVar[bool] = False

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        self.params = params
        self.budget = budget
        #: Of one image, ``(c, h, w)``: what a method needs that looks at the graph.
        self.shape = shape
        self._prices: Tariff | None = None

    @classmethod
    def variant(cls, params: Record) -> type[Method]:
        """Return the class that obeys the options, where that is not one for all."""
        del params
        return cls

    def phases(self, epochs: int) -> list[Phase]:
        """Return the phases of a training of ``epochs`` epochs."""
        return [Phase(name="train", epochs=epochs)]

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Return the model to train in this phase; the argument is left as it was."""
        del phase
        return copy.deepcopy(model)

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, object]]:
        """Return what the optimizer trains; own parameters may get their own rate."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": lr}]

    def loss(self, model: nn.Module, progress: float) -> Tensor | None:
        """Return what is added to the task loss; ``progress`` runs from 0 to 1 in a phase."""
        del model, progress
        return None

    def prunes_now(self, model: nn.Module, progress: float, *, epoch_ends: bool) -> bool:
        """Tell whether ``after_step`` or ``after_epoch`` is about to remove weights for good.

        The loop then measures what that costs at once.
        """
        del model, progress, epoch_ends
        return False

    def after_step(self, model: nn.Module, progress: float) -> None:
        """Act after each optimizer step."""

    def after_epoch(self, model: nn.Module, progress: float) -> None:
        """Act after each epoch."""

    def kept(self, model: nn.Module) -> int:
        """Return how many of the model's weights the budget pays for."""
        return self.budget.kept(prunable_count(model))

    def at_least(self, model: nn.Module, part: float) -> int:
        """Return how many weights a part of the network is, no fewer than the budget's."""
        return max(self.kept(model), whole_part(part, prunable_count(model)))

    def largest(self, model: nn.Module) -> dict[str, Tensor]:
        """Return masks of the weights of largest magnitude, exactly the budget's number."""
        return self.select(model, magnitudes(model))

    def prices(self, model: nn.Module) -> Tariff:
        """Return what the model's weights cost in the budget's unit, and the limit."""
        if self._prices is None:
            self._prices = tariff(plain(model), self.shape, self.budget)
        return self._prices

    def part(self, model: nn.Module) -> float:
        """Return the part of the whole network's cost that may be spent, in (0, 1]."""
        if self.budget.unit == "weights":
            return self.budget.weights
        return self.prices(model).part

    def select(
        self, model: nn.Module, scores: Mapping[str, Tensor], part: float = 0.0
    ) -> dict[str, Tensor]:
        """Return masks of the weights of largest score that the budget pays for.

        Args:
            model: the network as it is attached.
            scores: by plain parameter name.
            part: of the whole network's cost, where more than the budget may still be spent.
        """
        if self.budget.unit == "weights":
            return self.guarded(model, top_k(scores, self.at_least(model, part)), scores)
        prices, part = self.prices(model), max(part, self.part(model))
        limit = part * prices.whole * (1 + 1e-9)
        unguarded = within(scores, prices, part)
        masks = self.guarded(model, unguarded, scores)
        # The guard's choice may cost more: then a little less is ranked, a few times.
        for _ in range(_TRIES):
            if prices.cost(masks) <= limit:
                return masks
            part *= 0.98
            masks = self.guarded(model, within(scores, prices, part), scores)
        return unguarded

    def guarded(
        self, model: nn.Module, masks: dict[str, Tensor], scores: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return masks of as many weights under which no layer has lost its last channel."""
        if not self.budget.connected or self.shape is None:
            return masks
        return connect(plain(model), self.shape, masks, scores)

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed training cannot compute anew, by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned, after ``attach`` and before the first step."""
        del state

    def cost(self, model: nn.Module) -> float | None:
        """Return what the network spends now, as a fraction of all weights, if soft."""
        del model
        return None

    def figures(
        self, model: nn.Module, accuracy: Callable[[nn.Module], float]
    ) -> dict[str, float]:
        """Return figures of the method's own about the trained network.

        Asked for once, after the training.

        Args:
            model: as it is attached after the last epoch; it is left as it was.
            accuracy: of a network on the test split, in [0, 1].
        """
        del model, accuracy
        return {}

    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Return which weights are kept in the end: boolean, by plain parameter name."""
        return {
            name: torch.ones_like(w, dtype=torch.bool) for name, w in apparent(model).items()
        }


def create(choice: Choice, budget: Budget, shape: tuple[int, ...] | None = None) -> Method:
    """Create the method a recipe names.

    Args:
        choice: its key and options.
        budget: what it may keep.
        shape: of one image, ``(c, h, w)``.

    Raises:
        PareError: unknown method or option, or a budget that the method cannot obey.
    """
    plugin, _ = METHODS.load(choice.name)
    if not (inspect.isclass(plugin) and issubclass(plugin, Method)):
        raise PareError(f"{choice.name!r} is not a subclass of pipeline.methods.Method.")
    params = parse(plugin.Params, choice.options, f"method {choice.name!r}")
    if not plugin.prunes and not budget.is_whole:
        raise PareError(
            f"method {choice.name!r} prunes nothing, but budget.{budget.unit} = "
            f"{budget.limit:g}. Choose another method or budget.weights = 1."
        )
    if budget.unit in ("macs", "latency_ms") and shape is None:
        raise PareError(f"budget.{budget.unit} needs the shape of an image.")
    if budget.unit not in plugin.units:
        raise PareError(
            f"method {choice.name!r} cannot obey budget.{budget.unit}, only "
            f"{', '.join(sorted(plugin.units))}. Choose another unit or method."
        )
    variant = plugin.variant(params)
    if budget.multiple > 1 and not variant.whole_channels:
        raise PareError(
            f"budget.multiple = {budget.multiple} counts channels, and method "
            f"{choice.name!r} removes single weights. Choose method 'filter_norm', or "
            "'reparam' with granularity = 'channel'."
        )
    return variant(params, budget, shape)


def shares(epochs: int, count: int) -> list[int]:
    """Share epochs evenly, at least one each; what does not divide goes to the last.

    >>> shares(10, 3)
    [3, 3, 4]
    """
    each = max(1, epochs // count)
    return [each] * (count - 1) + [max(1, epochs - each * (count - 1))]


def cubic_ramp(done: float, final: float) -> float:
    """Return what is left when a part of the way from one to ``final`` is done.

    Source:
        Zhu & Gupta, To Prune, or Not to Prune, 2017, arXiv:1710.01878, equation 1.

    >>> [round(cubic_ramp(done, 0.2), 3) for done in (-1.0, 0.0, 0.5, 1.0, 2.0)]
    [1.0, 1.0, 0.3, 0.2, 0.2]
    """
    return final + (1 - final) * (1 - min(1.0, max(0.0, done))) ** 3


def beside(model: nn.Module, own: list[nn.Parameter], lr: float) -> dict[str, object]:
    """Return the group of all trained parameters that are not a method's own."""
    ids = {id(parameter) for parameter in own}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    return {"params": rest, "lr": lr}


def undecayed(own: list[nn.Parameter], lr: float) -> dict[str, object]:
    """Return the group of a method's own parameters, which weight decay would pull."""
    return {"params": own, "lr": lr, "weight_decay": 0.0}


def apparent(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights the network computes with, by plain parameter name, detached."""
    return {name: weight.detach() for name, weight in prunable(model).items()}


@torch.no_grad()
def plain(model: nn.Module) -> nn.Module:
    """Return a copy whose weights are the apparent ones, free of parametrizations."""
    bare = copy.deepcopy(model)
    for module in bare.modules():
        if isinstance(module, PRUNABLE) and parametrize.is_parametrized(module, "weight"):
            weight = module.weight.clone()
            # Not remove_parametrizations: a copy shares its generated class with the
            # original, which would lose its parametrized weight with it.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight = nn.Parameter(weight)
    return bare


@torch.no_grad()
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a plain copy with every weight outside the masks set to zero."""
    bare = plain(model)
    for name, mask in masks.items():
        bare.get_parameter(name).mul_(mask)
    return bare


def magnitudes(model: nn.Module) -> dict[str, Tensor]:
    """Return the magnitude of each weight the network computes with, by parameter name."""
    return {name: weight.abs() for name, weight in apparent(model).items()}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's state on the CPU, which no later step changes."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def attached(model: nn.Module, kind: type[P]) -> Iterator[tuple[str, P, Tensor]]:
    """Yield name, parametrization and latent weight of each layer that has one of a kind.

    The name is the plain one of the weight, such as ``conv1.weight``. A weight that layers
    share comes once, under its first name.
    """
    seen: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, PRUNABLE) and parametrize.is_parametrized(module, "weight"):
            stack: Any = module.parametrizations
            latent = stack.weight.original
            if isinstance(stack.weight[0], kind) and id(latent) not in seen:
                seen.add(id(latent))
                yield f"{name}.weight" if name else "weight", stack.weight[0], latent


def register(model: nn.Module, make: Callable[[Tensor], nn.Module]) -> None:
    """Give each weight of the method's own copy a parametrization, a shared one the same."""
    made: dict[int, nn.Module] = {}
    for module in model.modules():
        if isinstance(module, PRUNABLE):
            weight = module.weight
            if id(weight) not in made:
                made[id(weight)] = make(weight)
            # Unsafe: no right inverse is asked for, weights stay as they are.
            parametrize.register_parametrization(
                module, "weight", made[id(weight)], unsafe=True
            )


class FixedMask(nn.Module):
    """Parametrization that holds weights outside a mask at zero while the rest train."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` with the removed entries zero, same shape."""
        return weight * self.mask


def with_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a plain copy that can be trained on, with its masks held."""
    bare = masked(model, masks)
    for name, mask in masks.items():
        owner = bare.get_submodule(name.removesuffix(".weight") if "." in name else "")
        parametrize.register_parametrization(owner, "weight", FixedMask(mask.clone()))
    return bare


def hold(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Change the masks of a model that ``with_masks`` made; the loop's own copy."""
    for name, fixed, _ in attached(model, FixedMask):
        fixed.mask.copy_(masks[name])
