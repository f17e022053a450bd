"""The proof that compaction changed nothing but the widths."""

from __future__ import annotations

import copy
import sys

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.graph.surgery import CutPlan, perform
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
    is compared with a scale of one; outputs of another shape differ infinitely.
    """
    expected, found = outputs(before, images), outputs(after, images)
    scale = max(float(one.abs().max()) for one in expected)
    same = [one.shape for one in expected] == [one.shape for one in found]
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
    wide_before = copy.deepcopy(before).double()
    wide_after = perform(trace(wide_before, tuple(images.shape[1:])), plan)
    noise = _noise(tuple(images.shape), seed)
    larger = _noise(
        (2, images.shape[1], images.shape[2] * 3 // 2, images.shape[3] * 2), seed + 1
    )
    found = [
        compare(before, after, images, "real images"),
        compare(before, after, noise, "noise"),
        compare(wide_before, wide_after, images.double(), "real images"),
        compare(wide_before, wide_after, noise.double(), "noise"),
    ]
    if _accepts(before, larger, len(outputs(before, images[:1])[0])):
        found.append(compare(before, after, larger, "noise at another size"))
        found.append(
            compare(wide_before, wide_after, larger.double(), "noise at another size")
        )
    return Equivalence(comparisons=found)


def _noise(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the tensors a network gives for ``images``, in the order of its structure."""
    leaves = tree_leaves(model.eval()(images))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel()]


def _accepts(model: nn.Module, images: Tensor, per_image: int) -> bool:
    """Tell whether a network takes images of another size, one row of outputs an image.

    A reshape to a fixed number of features may swallow a larger image as several rows.
    """
    try:
        found = outputs(model, images)
    except Exception:  # whatever a user's code raises for a size it was not made for
        return False
    return len(found[0]) == per_image * len(images)
