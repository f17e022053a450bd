"""The predictor against published latencies: each network predicted from the others.

Rows of one device, engine, number format and number of threads are a set, with two rates of
its own. Leaving a network out, its rows leave *every* set, so that nothing known of it helps
to predict it. Where a set has too few networks left to tell two rates, the balance between
them is that of the engine's other sets, found without the network as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, median

from pipeline.core.record import Record
from pipeline.profilers.predictor import interval
from pipeline.profilers.published import Counted, Published, count
from pipeline.profilers.rates import Run, common_balance, error, fit

LIMITS_PCT = {"XNNPACK": 15.0, "ncnn": 25.0}
"""Mean absolute error allowed, leave one network out, by runtime."""


class RowError(Record):
    """One published row, as it is predicted from the other networks of its set.

    Attributes:
        predicted_ms: by rates that have never seen the network.
        error_pct: of the published time, positive where the prediction is too long.
        in_sample_pct: the same by rates fitted with it.
        borrowed: whether the balance of the rates came from other devices.
    """

    row: Published
    predicted_ms: float
    error_pct: float
    in_sample_pct: float
    borrowed: bool


class SetError(Record):
    """One device, engine, number format and number of threads.

    Attributes:
        borrowed: rows whose prediction borrowed its balance.
        worst_pct: error of the network that is predicted worst, signed.
    """

    device: str
    unit: str
    runtime: str
    tool: str
    dtype: str
    threads: str
    models: int
    in_sample_mape_pct: float
    loo_mape_pct: float
    borrowed: int
    worst: str
    worst_pct: float


class ModelError(Record):
    """One network over all devices of a runtime: its mean error, and mean absolute error."""

    runtime: str
    network: str
    rows: int
    mean_pct: float
    mape_pct: float


class Summary(Record):
    """All rows of one runtime.

    Attributes:
        left_out: rows that are disturbed, or alone in their set.
        limit_pct: what ``mape_pct`` must not exceed, if anything.
        mape_with_disturbed_pct: where disturbed rows are not left out.
        inside_pct: rows whose time lies in the interval of their prediction, which is made
            from the leave-one-out errors of the other rows of their set; 90 are promised.
    """

    runtime: str
    sets: int
    rows: int
    left_out: int
    mape_pct: float
    median_pct: float
    mape_with_disturbed_pct: float
    inside_pct: float
    limit_pct: float | None = None

    @property
    def held(self) -> bool:
        """Whether the error is within its limit, both with and without disturbed rows."""
        worse = max(self.mape_pct, self.mape_with_disturbed_pct)
        return self.limit_pct is None or worse <= self.limit_pct


class Validation(Record):
    """Every row, set, network and runtime that was compared."""

    rows: tuple[RowError, ...]
    sets: tuple[SetError, ...]
    models: tuple[ModelError, ...]
    runtimes: tuple[Summary, ...]


_Key = tuple[str, str, str, str, str, str]  # runtime, tool, device, unit, dtype, threads
_Sets = dict[_Key, list[Published]]
_Count = Callable[[str], Counted]


def validate(rows: Sequence[Published], counted: _Count = count) -> Validation:
    """Predict each published row from the other networks and compare.

    Args:
        rows: as :func:`pipeline.profilers.published.published` reads them.
        counted: what a network costs, by its name; builds it where not given.

    Raises:
        PareError: a network can't be built.
    """
    clean = _sets([row for row in rows if not row.disturbed])
    errors = {key: found for key, found in _errors(clean, counted).items() if found}
    disturbed = _errors(_sets(rows), counted)
    every = tuple(error for found in errors.values() for error in found)
    return Validation(
        rows=every,
        sets=tuple(_set_error(found) for found in errors.values()),
        models=_model_errors(every),
        runtimes=tuple(
            _summary(runtime, rows, errors, disturbed)
            for runtime in dict.fromkeys(row.runtime for row in rows)
            if any(key[0] == runtime for key in errors)
        ),
    )


def _sets(rows: Sequence[Published]) -> _Sets:
    sets: _Sets = {}
    for row in rows:
        key = (row.runtime, row.tool, row.device, row.unit, row.dtype, row.threads)
        sets.setdefault(key, []).append(row)
    return sets


def _errors(sets: _Sets, counted: _Count) -> dict[_Key, list[RowError]]:
    """Predict every row without its network; a set of one network has none."""
    left_out = {(row.runtime, row.network) for rows in sets.values() for row in rows}
    balances = {pair: _balance(sets, *pair, counted) for pair in left_out}
    return {
        key: [
            found
            for row in rows
            if (found := _error(row, rows, balances[row.runtime, row.network], counted))
        ]
        for key, rows in sets.items()
    }


def _balance(sets: _Sets, runtime: str, network: str, counted: _Count) -> float | None:
    """Return the balance of a runtime's sets without a network, in MACs an element."""
    return common_balance(
        [
            [_run(row, counted) for row in rows if row.network != network]
            for key, rows in sets.items()
            if key[0] == runtime
        ]
    )


def _error(
    row: Published, rows: Sequence[Published], balance: float | None, counted: _Count
) -> RowError | None:
    others = [_run(other, counted) for other in rows if other.network != row.network]
    found = fit(others, balance) if others else None
    whole = fit([_run(other, counted) for other in rows], balance)
    if found is None or whole is None:
        return None
    run = _run(row, counted)
    missed = error(run, found.rates)
    return RowError(
        row=row,
        predicted_ms=row.ms * (1 + missed),
        error_pct=100 * missed,
        in_sample_pct=100 * error(run, whole.rates),
        borrowed=not found.own,
    )


def _run(row: Published, counted: _Count) -> Run:
    """Return a row with activations in elements, so that number formats compare."""
    cost = counted(row.network)
    return Run(cost.macs, cost.elements, row.ms)


def _set_error(found: Sequence[RowError]) -> SetError:
    first = found[0]
    worst = max(found, key=lambda one: abs(one.error_pct))
    return SetError(
        device=first.row.device,
        unit=first.row.unit,
        runtime=first.row.runtime,
        tool=first.row.tool,
        dtype=first.row.dtype,
        threads=first.row.threads,
        models=len(found),
        in_sample_mape_pct=fmean(abs(one.in_sample_pct) for one in found),
        loo_mape_pct=fmean(abs(one.error_pct) for one in found),
        borrowed=sum(one.borrowed for one in found),
        worst=worst.row.model,
        worst_pct=worst.error_pct,
    )


def _model_errors(rows: Sequence[RowError]) -> tuple[ModelError, ...]:
    groups: dict[tuple[str, str], list[float]] = {}
    for one in rows:
        groups.setdefault((one.row.runtime, one.row.network), []).append(one.error_pct)
    return tuple(
        ModelError(
            runtime=runtime,
            network=network,
            rows=len(found),
            mean_pct=fmean(found),
            mape_pct=fmean(map(abs, found)),
        )
        for (runtime, network), found in groups.items()
    )


def _summary(
    runtime: str,
    rows: Sequence[Published],
    errors: dict[_Key, list[RowError]],
    disturbed: dict[_Key, list[RowError]],
) -> Summary:
    own, with_all = (
        [ones for key, ones in some.items() if key[0] == runtime]
        for some in (errors, disturbed)
    )
    found, with_disturbed = (
        [abs(one.error_pct) for ones in some for one in ones] for some in (own, with_all)
    )
    return Summary(
        runtime=runtime,
        sets=len(own),
        rows=len(found),
        left_out=sum(row.runtime == runtime for row in rows) - len(found),
        mape_pct=fmean(found),
        median_pct=median(found),
        mape_with_disturbed_pct=fmean(with_disturbed),
        inside_pct=100 * fmean(_inside(one, ones) for ones in own for one in ones),
        limit_pct=LIMITS_PCT.get(runtime),
    )


def _inside(one: RowError, ones: Sequence[RowError]) -> bool:
    """Whether a published time lies in the interval of its prediction."""
    others = [abs(other.error_pct) for other in ones if other is not one]
    low, high = interval(one.predicted_ms, fmean(others) if len(others) > 1 else None)
    return low <= one.row.ms <= high
