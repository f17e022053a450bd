"""How far a file's outputs are from those of the PyTorch network, and how accurate it is."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.record import Record
from pipeline.exporters import Images
from pipeline.runtime.engines import Engine

_Z95 = 1.959963984540054  # two-sided 95 % of the normal distribution


class WorstClass(Record):
    """The class whose images the file gets wrong most often beyond what the network does.

    Attributes:
        position: of it among the classes.
        n: images of it.
        network: part of these that the network gets right.
        file: part of these that the file gets right.
    """

    position: int
    n: int
    network: float
    file: float

    @property
    def drop(self) -> float:
        """Points of accuracy lost on this class."""
        return (self.network - self.file) * 100


class Parity(Record):
    """One file against its PyTorch network, on the same images.

    Attributes:
        max_abs_difference: largest difference of a logit; ``None`` where the file gives
            values that are not finite.
        output_scale: one step of a quantized output; ``None`` for float outputs.
        max_steps: the largest difference in such steps.
        agreement: part of the images that get the same first class.
        top1: accuracy of the file itself, with its 95 % Wilson interval.
        network_top1: accuracy of the PyTorch network on the same images.
        worst_class: where the file loses most; ``None`` where it loses nowhere.
        psnr_db: 20 log10(largest reference logit / root mean square difference);
            ``None`` where nothing differs.
        passed: whether the file may be offered.
        why: the figure that decided, against its limit.
    """

    max_abs_difference: float | None
    output_scale: float | None
    max_steps: float | None
    agreement: float
    top1: Measure
    network_top1: float
    worst_class: WorstClass | None
    psnr_db: float | None
    passed: bool
    why: str


def compare(
    engine: Engine,
    batches: Iterable[Images],
    labels: npt.NDArray[np.int64],
    reference_logits: npt.NDArray[np.float32],
    *,
    dtype: str,
    max_float_difference: float,
    min_agreement: float,
    max_accuracy_drop: float | None = None,
    untouched_logits: npt.NDArray[np.float32] | None = None,
) -> Parity:
    """Run a file on images and judge it by the network it was made from.

    A float32 file must reproduce the logits; of a quantized file only the decisions are
    asked for, because its logits are rounded by design. Where a limit on accuracy is set,
    it is that which decides of them.

    Args:
        engine: the loaded file.
        batches: of normalised images ``[n, c, h, w]``; only one is held at a time.
        labels: ``[n]``.
        reference_logits: of the PyTorch network on these images, ``[n, classes]``.
        dtype: the target's word for the file's scheme; ``"fp32"`` is judged by difference.
        max_float_difference: as a fraction of the largest reference logit.
        min_agreement: part of the images that must get the network's first class.
        max_accuracy_drop: points of top-1 that a quantized file may lose; ``None`` for any.
        untouched_logits: of the network whose accuracy counts, where the file's weights are
            those of another one, trained on from it.

    Raises:
        PareError: there are no images, or the three arrays don't belong together.
    """
    parts = [engine.run(images) for images in batches]
    count = sum(len(part) for part in parts)
    if not count or not count == len(labels) == len(reference_logits):
        raise PareError(
            f"parity: {count} images, {len(labels)} labels and "
            f"{len(reference_logits)} reference rows; give the same number, at least 1."
        )
    logits = np.concatenate(parts)
    if logits.shape != reference_logits.shape:
        raise PareError(
            f"parity: the file gives {list(logits.shape)} logits, the network "
            f"{list(reference_logits.shape)}. They are not the same network."
        )
    finite = bool(np.isfinite(logits).all())
    worst = float(np.abs(logits - reference_logits).max()) if finite else None
    largest = float(np.abs(reference_logits).max())
    agreement = float((logits.argmax(1) == reference_logits.argmax(1)).mean())
    right = logits.argmax(1) == labels
    counted = reference_logits if untouched_logits is None else untouched_logits
    network_right = counted.argmax(1) == labels
    drop = float(network_right.mean() - right.mean()) * 100
    passed, why = _judge(worst, largest, agreement, dtype, max_float_difference, min_agreement)
    if passed and dtype != "fp32" and max_accuracy_drop is not None:
        passed = drop <= max_accuracy_drop + 1e-9
        why = f"{drop:.2f} points of top-1 lost, limit {max_accuracy_drop:g}"
    step = engine.output_step
    return Parity(
        max_abs_difference=worst,
        output_scale=step,
        max_steps=worst / step if worst is not None and step else None,
        agreement=agreement,
        top1=accuracy(int(right.sum()), len(labels)),
        network_top1=float(network_right.mean()),
        worst_class=_worst_class(labels, network_right, right),
        psnr_db=_psnr_db(logits, reference_logits) if finite else None,
        passed=passed,
        why=why,
    )


def _worst_class(
    labels: npt.NDArray[np.int64],
    network: npt.NDArray[np.bool_],
    file: npt.NDArray[np.bool_],
) -> WorstClass | None:
    """Return the class with the largest drop of accuracy, the first of equals."""
    found = [
        WorstClass(
            position=int(label),
            n=int((labels == label).sum()),
            network=float(network[labels == label].mean()),
            file=float(file[labels == label].mean()),
        )
        for label in np.unique(labels)
    ]
    worst = max(found, key=lambda one: one.drop)
    return worst if worst.drop > 0 else None


def accuracy(right: int, n: int) -> Measure:
    """Return an accuracy with its 95 % interval.

    Source:
        Wilson, J. Am. Stat. Assoc. 22, 1927; without correction for continuity.

    >>> print(accuracy(9, 10))
    0.9 (0.596 to 0.982, measured, n=10)
    """
    return Measure(
        value=right / n, unit="", basis="measured", n=n, spread=wilson_interval(right, n)
    )


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of ``right`` of ``n``."""
    share = right / n
    spread = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
    centre = share + _Z95**2 / (2 * n)
    scale = 1 + _Z95**2 / n
    # Rounding must not push the interval past what an accuracy can be.
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def _judge(
    worst: float | None,
    largest: float,
    agreement: float,
    dtype: str,
    max_float_difference: float,
    min_agreement: float,
) -> tuple[bool, str]:
    if worst is None:
        return False, "an output is not finite"
    if dtype == "fp32":
        limit = max_float_difference * largest
        return worst <= limit, f"largest difference {worst:.3g}, limit {limit:.3g}"
    return (
        agreement >= min_agreement,
        f"same class as the network on {agreement:.2%}, limit {min_agreement:.2%}",
    )


def _psnr_db(
    logits: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]
) -> float | None:
    error = math.sqrt(float(np.mean(np.square(logits.astype(np.float64) - reference))))
    peak = float(np.abs(reference).max())
    return 20 * math.log10(peak / error) if error and peak else None
