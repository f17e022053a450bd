"""Which layers stay in float so that an integer file keeps its accuracy.

Source:
    The idea of accuracy control: rank layers by what their quantization costs, revert the
    worst until the limit holds (NNCF, ``quantize_with_accuracy_control``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.core.plan import Kept, SchemePlan
from pipeline.core.record import Record


class Try(Record):
    """One file that was made on the way.

    Attributes:
        in_float: number of layers that stay in float, the most sensitive first.
        drop: points of top-1 lost on the validation split; ``None`` where no file came out.
        holds: whether that is within the limit.
    """

    in_float: int
    drop: float | None
    holds: bool


class Control(Record):
    """The fewest layers in float with which the limit holds, and all that was tried.

    Attributes:
        file: name of the file with all layers in integers.
        kept: these layers; ``None`` where the limit held with none, or with no number.
        why: what came of it, in a sentence.
    """

    file: str
    kept: tuple[Kept, ...] | None
    tries: tuple[Try, ...]
    why: str


def control(
    file: str,
    ranking: Sequence[Kept],
    limit: float,
    drop_with: Callable[[tuple[Kept, ...]], float | None],
) -> Control:
    """Find how many of the most sensitive layers have to stay in float.

    Their number is doubled until the limit holds, then halved back. Each step makes a file
    and measures it, so what counts is the file and not a simulation of it.

    Args:
        file: name of the file with all layers in integers.
        ranking: every layer that could stay in float, the most sensitive first.
        limit: points of top-1 that may be lost on the validation split.
        drop_with: makes a file with some layers in float and returns the points it loses.
    """
    tries: dict[int, Try] = {}

    def holds(count: int) -> bool:
        if count not in tries:
            drop = drop_with(tuple(ranking[:count]))
            good = drop is not None and drop <= limit + 1e-9
            tries[count] = Try(in_float=count, drop=drop, holds=good)
        return tries[count].holds

    def found(kept: tuple[Kept, ...] | None, why: str) -> Control:
        made = tuple(tries[count] for count in sorted(tries))
        return Control(file=file, kept=kept, tries=made, why=why)

    if holds(0):
        return found(None, f"{_points(tries[0])}, within the limit of {limit:g}")
    if not ranking:
        return found(None, f"{_points(tries[0])}, limit {limit:g}; no layer can stay in float")
    high = 1
    while high < len(ranking) and not holds(high):
        high = min(2 * high, len(ranking))
    if not holds(high):
        why = f"even with {high} layers in float the limit of {limit:g} points does not hold"
        return found(None, why)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    why = (
        f"all layers in integers: {_points(tries[0])}, limit {limit:g}; with {high} of "
        f"{len(ranking)} in float: {_points(tries[high])}"
    )
    return found(tuple(ranking[:high]), why)


def mixed(plan: SchemePlan, kept: tuple[Kept, ...]) -> SchemePlan:
    """Return an integer file's plan with some layers in float, and float at its border."""
    return plan.model_copy(
        update={
            "variant": "-".join(filter(None, [plan.variant, "mixed"])),
            "kept": kept,
            "input_dtype": "uint8" if _takes_pixels(plan) else "float32",
            "output_dtype": "float32",
            "why": f"{len(kept)} layers stay in float to hold the accuracy limit",
        }
    )


def _takes_pixels(plan: SchemePlan) -> bool:
    return plan.format == "onnx" and plan.input_dtype == "uint8"


def _points(one: Try) -> str:
    if one.drop is None:
        return "no file"
    word = "lost" if one.drop >= 0 else "gained"
    return f"{abs(one.drop):.2f} points {word} on validation"
