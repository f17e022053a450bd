"""Rates of a target from latencies that were measured on it.

Profiles of one engine, version, number format and number of threads give one calibration.
What was not measured on the device itself, or is not of this target, is refused: a wrong
rate is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, ValidationError

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.target import Calibration, Dtype
from pipeline.profilers.predictor import RUNTIMES
from pipeline.profilers.profile import load
from pipeline.profilers.rates import Run, common_balance, error, fit, leave_one_out, mape

_MAX_LOO_PCT = 48.0  # beyond it the interval has no upper end
_FOR_A_LOO = 3  # of two networks, one is left, which tells no two rates


class Sample(Record):
    """One file, measured on a device.

    Attributes:
        profile: path of the profile it comes from.
        target: id of the device.
        version: of the engine.
        file: name of the model file.
    """

    profile: str
    target: str
    runtime: Literal["xnnpack", "onnxruntime"]
    version: str | None
    dtype: Dtype
    threads: int = Field(ge=1)
    macs: int = Field(gt=0)
    activation_bytes: int = Field(gt=0)
    median_ms: float = Field(gt=0)
    file: str
    sha256: str

    @property
    def conditions(self) -> tuple[str, str | None, str, int]:
        """What one pair of rates holds for."""
        return self.runtime, self.version, self.dtype, self.threads

    @property
    def run(self) -> Run:
        """The figures that rates are fitted to."""
        return Run(self.macs, self.activation_bytes, self.median_ms)


def samples(paths: Iterable[Path]) -> list[Sample]:
    """Read what was measured from profiles.

    Raises:
        PareError: a file is missing, damaged or no profile; it was cut short; it holds no
            measurement, one made under emulation, or one that did not settle; or what was
            measured can't be predicted by two rates. Names the file.
    """
    return [_sample(path) for path in paths]


def _sample(path: Path) -> Sample:
    profile = load(path)
    measured = profile.measured
    if measured is None:
        why = f": {profile.refused}" if profile.refused else ""
        raise PareError(
            f"{path} holds no measurement{why}. Rates are fitted to times that were measured "
            "on the device itself; predicted ones would only give their own rates back."
        )
    if profile.stranger:
        raise PareError(
            f"{path} was not measured on {profile.target}: {profile.stranger}. Measure on the "
            "device itself."
        )
    if measured.stable is False:
        raise PareError(f"{path}: its times did not settle. Measure again on a quiet device.")
    if profile.graph.dtype not in get_args(Dtype):
        raise PareError(
            f"{path}: {profile.file.name} computes in {profile.graph.dtype}, which no single "
            f"pair of rates describes. Choose a file of one of: {', '.join(get_args(Dtype))}."
        )
    values = {
        "profile": str(path),
        "target": profile.target,
        "runtime": RUNTIMES[profile.file.format],
        "version": measured.runtime_version,
        "dtype": profile.graph.dtype,
        "threads": measured.threads,
        "macs": profile.graph.macs,
        "activation_bytes": profile.graph.activation_bytes,
        "median_ms": measured.typical.value,
        "file": profile.file.name,
        "sha256": profile.file.sha256,
    }
    try:
        return Sample.model_validate(values)
    except ValidationError as problem:
        raise _damaged(path, problem) from None


def _damaged(path: Path, problem: ValidationError) -> PareError:
    first = problem.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return PareError(f"{path} is damaged: {key}: {first['msg'].lower()}. Measure again.")


def calibrate(found: Sequence[Sample], target: str, today: date) -> list[Calibration]:
    """Fit rates to what was measured, one pair for each engine, version, format and threads.

    Args:
        found: at least two different networks of each.
        target: id of the device they must have been measured on.
        today: recorded as the day of the fit.

    Raises:
        PareError: a profile is of another target, two are of the same network, one stands
            alone, or they don't go together: the rates can't be told apart, or miss a
            network that is left out by more than an interval could hold.
    """
    if not found:
        raise PareError("no profile is given. Name the JSON files of at least two networks.")
    for sample in found:
        if sample.target != target:
            raise PareError(
                f"{sample.profile} was measured on {sample.target!r}, not on {target!r}. "
                "Rates of one device say nothing of another: leave it out."
            )
    groups: dict[tuple[str, str | None, str, int], list[Sample]] = {}
    for sample in found:
        groups.setdefault(sample.conditions, []).append(sample)
    return [_calibration(group, today) for group in groups.values()]


def _calibration(group: Sequence[Sample], today: date) -> Calibration:
    first = group[0]
    _refuse_duplicates(group)
    if len(group) < 2:
        raise PareError(
            f"{first.profile} is the only profile of {named(first)}; two rates need at least "
            f"two networks, and {_FOR_A_LOO} for an error to be told. Measure more there, or "
            "leave it out."
        )
    runs = [sample.run for sample in group]
    fitted = fit(runs)
    if fitted is None:
        raise PareError(
            f"the profiles of {named(first)} don't tell the time of a MAC from that of a "
            f"byte: {_ratios(group)}. Add a network that is different, such as one of "
            "depthwise beside one of plain convolutions."
        )
    return Calibration(
        runtime=first.runtime,
        version=first.version,
        dtype=first.dtype,
        threads=first.threads,
        r_gmac_s=float(f"{fitted.rates.r_gmac_s:.4g}"),
        b_gb_s=float(f"{fitted.rates.b_gb_s:.4g}"),
        n_models=len(group),
        loo_mape_pct=_loo_pct(group),
        macs_min=min(sample.macs for sample in group),
        macs_max=max(sample.macs for sample in group),
        basis="fitted",
        source=f"pare profile, fitted {today.isoformat()} to {_files(group)}",
    )


def _refuse_duplicates(group: Sequence[Sample]) -> None:
    """Refuse a second profile of a network, which would count it twice."""
    seen: dict[object, Sample] = {}
    for sample in group:
        for key in (sample.sha256, (sample.macs, sample.activation_bytes)):
            before = seen.setdefault(key, sample)
            if before is not sample:
                raise PareError(
                    f"{before.profile} and {sample.profile} are of the same network, "
                    f"measured as {named(sample)}. Keep one of them."
                )


def _loo_pct(group: Sequence[Sample]) -> float | None:
    """Return the leave-one-out error rounded up, or ``None`` with two networks.

    Where the others alone don't tell two rates, they give the nearest balance that is in
    reach, so that a network that fits nowhere shows.
    """
    runs = [sample.run for sample in group]
    if len(runs) < _FOR_A_LOO:
        return None
    balances = [common_balance([[*runs[:i], *runs[i + 1 :]]]) for i in range(len(runs))]
    errors = leave_one_out(runs, balances)
    if errors is None:
        return None
    found = max(0.1, math.ceil(10 * mape(errors)) / 10)
    if found > _MAX_LOO_PCT:
        worst = max(range(len(runs)), key=lambda index: abs(errors[index]))
        raise PareError(
            f"the profiles of {named(group[0])} don't go together: left out, a network is "
            f"missed by {found:.0f} % on average, {group[worst].profile} by "
            f"{100 * errors[worst]:+.0f} %. Measure that one again, or add networks like it."
        )
    return found


def residuals(found: Calibration, group: Iterable[Sample]) -> list[tuple[str, float]]:
    """Return by how many percent each file of a calibration is missed by its rates."""
    return [
        (sample.file, 100 * error(sample.run, found))
        for sample in group
        if sample.conditions == (found.runtime, found.version, found.dtype, found.threads)
    ]


def named(one: Sample | Calibration) -> str:
    """Say what one pair of rates holds for, in words."""
    engine = f"{one.runtime} {one.version}" if one.version else one.runtime
    threads = "thread" if one.threads == 1 else "threads"
    return f"{engine}, {one.dtype}, {one.threads} {threads}"


def _ratios(group: Sequence[Sample]) -> str:
    return "; ".join(
        f"{one.file} has {one.macs / one.activation_bytes:.3g} MACs a byte, "
        f"{one.median_ms:.3g} ms"
        for one in group
    )


def _files(group: Sequence[Sample]) -> str:
    return ", ".join(f"{s.file} ({s.sha256[:12]}, {s.median_ms:.4g} ms)" for s in group)
