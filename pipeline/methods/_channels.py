"""The scheduled reparametrization with one gate for each group of coupled channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.groups import Grouping, channel_groups
from pipeline.graph.ranking import largest_within
from pipeline.methods import Phase, apparent, attached, plain, register
from pipeline.methods._gates import OPEN, h, half_way
from pipeline.methods._scheduled import Scheduled

#: Norms of channels lie much closer together than weights: the edge is as much sharper.
_SHARPER = 4
_OPEN = math.log(OPEN)
_SOFT = 0.6
_TINY = 1e-20
_HALVINGS = 40  # of a range of 40 in the logarithm: as near as a float32 comes


class ChannelGate(nn.Module):
    """Parametrization that multiplies each weight by the gates of its two channels."""

    gate: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("gate", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """Map latent to apparent weights, same shape."""
        return weight * self.gate


class ByChannel(Scheduled):
    """h acts on the norm of a group of channels, which vanish together through every add.

    The norm of a group is the root mean square of the filters that make its channels,
    relative to their layers' where ``scale_free``. Its gate multiplies these filters and
    what reads them, so that no constant of a vanishing channel is left to rely on. Gates are
    set between steps: the gradient does not flow through them.
    """

    whole_channels: ClassVar[bool] = True

    def __init__(
        self, params: Record, budget: Budget, shape: tuple[int, ...] | None = None
    ) -> None:
        super().__init__(params, budget, shape)
        self._grouping = Grouping.of([], {})
        self._hard = False

    def attach(self, model: nn.Module, phase: Phase) -> nn.Module:
        """Register an open gate on every weight.

        Raises:
            PareError: without the shape of an image, or no channel can leave.
        """
        if self.shape is None:
            raise PareError("granularity = 'channel' needs the shape of an image.")
        own = super().attach(model, phase)
        bare = plain(own)
        self._grouping = Grouping.of(channel_groups(bare, self.shape), apparent(bare))
        if not self._grouping.count:
            raise PareError(
                "granularity = 'channel': no channel of this network can leave. Choose "
                "granularity = 'weight'."
            )
        self._hard = False
        register(own, lambda weight: ChannelGate(weight.detach()))
        with torch.no_grad():  # what cannot be paid for is refused before it is trained
            self._paid_for(own, self._norms(own), self.part(own))
        return own

    def is_hard(self, model: nn.Module) -> bool:
        """Tell whether the gates are zeros and ones already."""
        del model
        return self._hard

    def default_soft(self, final: float) -> float:
        """Return a fraction of the training that does not depend on the budget.

        Earlier than for weights: batch norm scales a channel up again that its gate makes
        small, so that a soft network leans on channels it is going to lose, and a mask
        costs as much later as it does sooner.
        """
        del final
        return _SOFT

    def default_end(self, final: float) -> float:
        """Return all of that time."""
        del final
        return 1.0

    def widen(self, model: nn.Module, part: float) -> None:
        """Put the half-way point where the gates spend just what is granted.

        Norms lie so close together that gates at the border are half open by the dozen:
        a border between those that are paid for and the others would spend too much.
        """
        block, means = self._blocks(self._norms(model))
        norms = means[block]  # what is kept or leaves together has one gate
        n, granted = _SHARPER * self.params.n, part * self.prices(model).whole
        largest = max(float(norms.max()), _TINY)
        low, high = math.log(half_way(n) / (4 * largest)), _OPEN  # all closed, all open
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            open_too_far = self._cost(model, self._gates(norms, middle)) > granted
            low, high = (low, middle) if open_too_far else (middle, high)
        self._set(model, self._gates(norms, low))

    def _gates(self, norms: Tensor, log_t: float) -> Tensor:
        return h(norms, norms.new_tensor(math.exp(log_t)), _SHARPER * self.params.n)

    def _cost(self, model: nn.Module, values: Tensor) -> float:
        """Return what the network costs whose groups have these gates."""
        rows, columns = self._grouping.sides(values)
        return self.prices(model).cost_of_channels(rows, columns, self._grouping.areas)

    def harden(self, model: nn.Module) -> None:
        """Close the gates of what is not paid for, and let latent weights be apparent."""
        kept = self._paid_for(model, self._norms(model), self.part(model))
        for _, gate, latent in attached(model, ChannelGate):
            latent.mul_(gate.gate)
        self._set(model, kept.float())
        self._hard = True

    @torch.no_grad()
    def cost(self, model: nn.Module) -> float:
        """Return what the gates spend as a part of the whole network's cost."""
        prices = self.prices(model)
        gates = {name: gate.gate for name, gate, _ in attached(model, ChannelGate)}
        return prices.cost(gates) / prices.whole

    @torch.no_grad()
    def masks(self, model: nn.Module) -> dict[str, Tensor]:
        """Keep the groups of largest norm that the budget pays for, each as a whole."""
        if self._hard:
            return {name: gate.gate > 0 for name, gate, _ in attached(model, ChannelGate)}
        return self._spread(model, self._paid_for(model, self._norms(model), self.part(model)))

    def state(self) -> dict[str, Tensor]:
        """Return when the gates last moved, and whether they are hard."""
        return {**super().state(), "reparam.hard": torch.tensor(self._hard)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        super().restore(state)
        self._hard = bool(state["reparam.hard"])

    def _norms(self, model: nn.Module) -> Tensor:
        latent = {name: weight for name, _, weight in attached(model, ChannelGate)}
        return self._grouping.norms(latent, relative=self.params.scale_free)

    def _paid_for(self, model: nn.Module, norms: Tensor, part: float) -> Tensor:
        """Return which groups are kept, boolean: the largest norms, some in each layer.

        They are taken block by block, so that widths are the multiples that are asked for.
        """
        multiple, prices = self.budget.multiple, self.prices(model)
        block, means = self._blocks(norms)
        firsts = torch.zeros_like(means, dtype=torch.bool)
        for groups in self._grouping.layers():
            firsts[block[groups[norms[groups].argmax()]]] = True

        def fits(kept: Tensor) -> bool:
            return self._cost(model, kept[block]) <= part * prices.whole * (1 + 1e-9)

        if not fits(firsts):
            least = self._cost(model, firsts[block]) / prices.whole
            some = "one channel" if multiple == 1 else f"{multiple} channels"
            raise PareError(
                f"granularity = 'channel': {some} in each layer costs {least:.2%} of the "
                f"network's {self.budget.unit}, and the budget grants {part:.2%}. Raise "
                f"budget.{self.budget.unit}, or choose granularity = 'weight'."
            )
        return largest_within(means + firsts * norms.max(), fits)[block]

    def _blocks(self, norms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block of each group, and the mean norm of each block."""
        block = self._grouping.blocks(norms, self.budget.multiple)
        means = norms.new_zeros(int(block.max()) + 1)
        return block, means.scatter_reduce(0, block, norms, "mean", include_self=False)

    def _spread(self, model: nn.Module, values: Tensor) -> dict[str, Tensor]:
        latent = {name: weight for name, _, weight in attached(model, ChannelGate)}
        return self._grouping.spread(values, latent)

    def _set(self, model: nn.Module, gates: Tensor) -> None:
        spread = self._spread(model, gates)
        for name, gate, _ in attached(model, ChannelGate):
            gate.gate.copy_(spread[name])
