"""The latency of a file on a target: measured, predicted or a bound, and always said which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.report.wording import DASH, interval, number, plural, whole

Row = Mapping[str, Any]

BASES = ("measured", "predicted", "bound")  # the first that is known is held to the limit
_STATISTICS = {"p90": "p90 claimed with 99 % confidence"}


class Fact(NamedTuple):
    """One figure of a card, with how it was obtained."""

    name: str
    figure: str
    basis: str


def counted(row: Row) -> Mapping[str, Any] | None:
    """Return the latency that is held to the limit: measured, else predicted, else a bound."""
    found = (row.get(basis) for basis in BASES)
    return next((measure for measure in found if measure), None)


def facts(row: Row) -> list[Fact]:
    """Return all that is known of a latency, the measured one first, never two in one.

    A bound is told only where nothing better is known; a time that was taken and does not
    count is told last, with the reason.
    """
    found = []
    if row.get("measured"):
        found.append(Fact("Latency", f"{number(row['measured']['value'])} ms", _measured(row)))
    if row.get("predicted"):
        name = "Latency, predicted" if found else "Latency"
        found.append(Fact(name, f"{number(row['predicted']['value'])} ms", _predicted(row)))
    if not found and row.get("bound"):
        figure = f"at least {number(row['bound']['value'])} ms"
        parts = ["bound, not a prediction", _threads(row["bound"]["conditions"])]
        found.append(Fact("Latency", figure, _joined(parts)))
    why = "neither measured nor predicted, and no peak of the device is known"
    return [*(found or [Fact("Latency", DASH, why)]), *_not_counted(row)]


def short(row: Row) -> tuple[str, str]:
    """Return the latency that counts in ms, and its basis, for a cell."""
    found = counted(row)
    if found is None:
        return DASH, ""
    if found["basis"] == "bound":
        return f"at least {number(found['value'])}", "bound"
    note = found["basis"]
    off = deviation(row)
    if off is not None:
        note += f"; predicted {_off(row, off)}"
    return number(found["value"]), note


def deviation(row: Row) -> float | None:
    """Return how far the prediction is from what the device took, as a fraction of that.

    Compared with the median, as predictions are fitted to medians; ``None`` where the two
    are not both known.
    """
    typical = (row.get("on_device") or {}).get("typical")
    if not (row.get("measured") and row.get("predicted") and typical):
        return None
    return float(row["predicted"]["value"] / typical["value"] - 1)


def is_unstable(row: Row) -> bool:
    """Tell whether the device's own repeats were further apart than they may be."""
    return bool(row.get("measured")) and (row.get("on_device") or {}).get("stable") is False


def _measured(row: Row) -> str:
    measured, device = row["measured"], row.get("on_device") or {}
    name = measured["conditions"].get("statistic", "mean")
    parts = [
        f"measured on the device: {_STATISTICS.get(name, name)}",
        f"n = {whole(measured['n'])}",
        _threads(measured["conditions"]),
        device.get("runtime") or "",
        _machine(device),
    ]
    if typical := device.get("typical"):
        spread = f" ({interval(typical)})" if interval(typical) else ""
        parts.append(f"{device['statistic']} {number(typical['value'])} ms{spread}")
    if is_unstable(row):
        parts.append(f"UNSTABLE: repeats {100 * device['spread']:.1f} % apart")
    return _joined(parts)


def _not_counted(row: Row) -> list[Fact]:
    device = row.get("on_device") or {}
    if not device.get("why_not"):
        return []
    typical = device.get("typical")
    figure = f"{number(typical['value'])} ms" if typical else DASH
    basis = f"measured on {_machine(device)}, which is no figure of this target: "
    return [Fact("Not counted", figure, basis + device["why_not"])]


def _machine(device: Mapping[str, Any]) -> str:
    if not device.get("machine"):
        return ""
    return f"{device['machine']}" + (f" ({device['cpu']})" if device.get("cpu") else "")


def _predicted(row: Row) -> str:
    predicted = row["predicted"]
    found = predicted["conditions"]
    parts = ["predicted", f"{interval(predicted)} ms" if interval(predicted) else ""]
    off = deviation(row)
    if off is not None:
        parts.append(_off(row, off))
    parts.append(_threads(found))
    if found.get("loo_mape_pct") is not None:
        models = found.get("calibration_models")
        over = f" over {plural(models, 'model')}" if models else ""
        parts.append(f"leave-one-out error {number(found['loo_mape_pct'])} %{over}")
    if found.get("calibration_basis"):
        parts.append(f"calibration {found['calibration_basis']}")
    parts.append("extrapolated" if found.get("extrapolated") else "")
    return _joined(parts)


def _off(row: Row, off: float) -> str:
    """Say by how much a prediction is off, in percent of the measured one."""
    side = "above" if off > 0 else "below"
    return f"{abs(100 * off):.1f} % {side} the measured {row['on_device']['statistic']}"


def _threads(found: Mapping[str, Any]) -> str:
    return plural(found["threads"], "thread") if found.get("threads") else ""


def _joined(parts: list[str]) -> str:
    return ", ".join(text for text in parts if text)
