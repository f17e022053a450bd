"""The proof that compaction changed nothing but the widths."""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import perform
from pipeline.graph.trace import trace

#: Largest accepted difference as a fraction of the largest output, float32 and float64.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class Comparison(Record):
    """Outputs of two networks on the same images.

    ``difference`` is the largest absolute difference, ``scale`` the largest absolute output.
    """

    what: str
    shape: list[int]
    dtype: str
    difference: float
    scale: float
    limit: float

    @property
    def holds(self) -> bool:
        """True where the outputs are equal up to the order of floating-point sums."""
        return self.difference <= self.limit


class Equivalence(Record):
    """Every comparison that was made; all of them have to hold."""

    comparisons: list[Comparison]

    @property
    def holds(self) -> bool:
        """True where every comparison holds."""
        return bool(self.comparisons) and all(c.holds for c in self.comparisons)

    @property
    def worst(self) -> float:
        """The largest difference as a fraction of the largest output."""
        return max(c.difference / (c.scale or 1.0) for c in self.comparisons)

    def demand(self) -> None:
        """Refuse a compaction that changed the outputs.

        Raises:
            PareError: names the comparison that fails; the network is kept as it was.
        """
        for comparison in self.comparisons:
            if not comparison.holds:
                raise PareError(
                    f"the compacted network differs from the masked one by "
                    f"{comparison.difference:.3g} (limit {comparison.limit:.3g}) on "
                    f"{comparison.what}, {comparison.dtype}. Nothing was replaced; please "
                    "report this network."
                )


@torch.no_grad()
def compare(before: nn.Module, after: nn.Module, images: Tensor, what: str) -> Comparison:
    """Compare the outputs of two networks on ``images`` ``[n, c, h, w]``.

    Networks of several outputs are compared in all of them. One whose outputs are all zero
    is compared with a scale of one; outputs of another shape, or that are not finite, differ
    infinitely.

    Raises:
        PareError: the first network's own outputs are not finite.
    """
    expected, found = outputs(before, images), outputs(after, images)
    if not _are_finite(expected):
        raise PareError(
            f"the masked network's outputs are not finite on {what}, so that nothing can be "
            "compared with them. Check its weights and its batch norms' statistics."
        )
    scale = max(float(one.abs().max()) for one in expected)
    same = [one.shape for one in expected] == [one.shape for one in found]
    same = same and _are_finite(found)
    difference = sys.float_info.max
    if same:
        difference = max(
            float((a - b).abs().max()) for a, b in zip(expected, found, strict=True)
        )
    return Comparison(
        what=what,
        shape=list(images.shape),
        dtype=str(images.dtype).removeprefix("torch."),
        difference=difference,
        scale=scale,
        limit=TOLERANCE[images.dtype] * (scale or 1.0),
    )


def _are_finite(tensors: list[Tensor]) -> bool:
    return all(bool(torch.isfinite(one).all()) for one in tensors)


def prove(
    before: nn.Module, after: nn.Module, plan: CutPlan, images: Tensor, seed: int = 0
) -> Equivalence:
    """Compare two networks on real images and on noise, and the plan itself in float64.

    In float32 the compacted network is compared as it is. Its folded constants are rounded
    to float32, so for the sharper float64 comparison the plan is carried out once more on
    the network in float64, also at another image size where the network takes one.

    Args:
        before: the masked network.
        after: the compacted one.
        plan: what led from one to the other.
        images: real images, float32 ``[n, c, h, w]``.
        seed: of the noise.
    """
    inputs = [("real images", images), ("noise", noise(tuple(images.shape), seed))]
    return _compared(before, after, plan, inputs, seed)


def prove_on_noise(
    before: nn.Module, after: nn.Module, plan: CutPlan, shape: tuple[int, ...], seed: int = 0
) -> Equivalence:
    """Compare as ``prove`` does where there are no images: on noise alone.

    Args:
        before: the masked network.
        after: the compacted one.
        plan: what led from one to the other.
        shape: of one input image, ``(c, h, w)``.
        seed: of the noise.
    """
    return _compared(before, after, plan, [("noise", noise((8, *shape), seed))], seed)


def _compared(
    before: nn.Module,
    after: nn.Module,
    plan: CutPlan,
    inputs: list[tuple[str, Tensor]],
    seed: int,
) -> Equivalence:
    """Compare on each of the named inputs, and at another size, in float32 and in float64."""
    wide_before = copy.deepcopy(before).double()
    graph = trace(wide_before, tuple(inputs[0][1].shape[1:]))
    wide_after = perform(graph, plan)
    _, channels, height, width = inputs[0][1].shape
    larger = noise((2, channels, height * 3 // 2, width * 2), seed + 1)
    if _agree(wide_before, graph, larger.double(), outputs(graph, inputs[0][1][:1].double())):
        inputs = [*inputs, ("noise at another size", larger)]
    found = []
    for what, images in inputs:
        found.append(compare(before, after, images, what))
        found.append(compare(wide_before, wide_after, images.double(), what))
    return Equivalence(comparisons=found)


def _agree(
    model: nn.Module, graph: nn.Module, images: Tensor, one_image: list[Tensor]
) -> bool:
    """Tell whether a network takes images of another size, and its graph like it.

    A reshape to a fixed number of features may swallow a larger image as several rows, and a
    graph may hold as a number what the code computes from the size.
    """
    try:
        expected, found = outputs(model, images), outputs(graph, images)
    except Exception:  # whatever a user's code raises for a size it was not made for
        return False
    return len(expected[0]) == len(one_image[0]) * len(images) and all(
        a.shape == b.shape and torch.allclose(a, b)
        for a, b in zip(expected, found, strict=True)
    )


def noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return normal noise, float32, always the same for a shape and a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the tensors a network gives for ``images``, in the order of its structure."""
    leaves = tree_leaves(model.eval()(images))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel()]
