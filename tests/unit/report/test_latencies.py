"""A latency is measured, predicted or a bound, and always says which."""

import pytest
from report_run import measure, row

from pipeline.report.latencies import counted, deviation, facts, is_unstable, short
from pipeline.report.wording import DASH

MEASURED = measure(3.5, n=200, statistic="p90", threads=4)
PREDICTED = measure(2.5, basis="predicted", spread=[1.5, 4.2], threads=4)
BOUND = measure(0.05, basis="bound", threads=2)


def device(**changed):
    return {
        "machine": "ssh://pi@kitchen", "created": "2026", "why_not": None, "cpu": "Cortex-A72",
        "runtime": "litert 2.3.0", "typical": measure(3.125, n=200, spread=[3.0, 3.25]),
        "statistic": "median", "stable": True, "spread": 0.02,
    } | changed  # fmt: skip


def known(*, on=None, **figures):
    return row("a.onnx", [], **figures) | {"on_device": on}


BOTH = known(measured=MEASURED, predicted=PREDICTED, bound=BOUND, on=device())


def test_the_measured_one_counts_before_the_predicted_and_that_before_the_bound():
    assert counted(BOTH) == MEASURED
    assert counted(known(predicted=PREDICTED, bound=BOUND)) == PREDICTED
    assert counted(known(bound=BOUND)) == BOUND
    assert counted(known()) is None


def test_a_measured_latency_comes_first_with_its_statistic_n_and_machine():
    first, second = facts(BOTH)
    assert (first.name, first.figure) == ("Latency", "3.50 ms")
    assert first.basis == (
        "measured on the device: p90 claimed with 99 % confidence, n = 200, 4 threads, "
        "litert 2.3.0, ssh://pi@kitchen (Cortex-A72), median 3.12 ms (3.00 to 3.25)"
    )
    assert (second.name, second.figure) == ("Latency, predicted", "2.50 ms")
    assert "20.0 % below the measured median" in second.basis


def test_the_deviation_is_of_the_median_that_predictions_are_fitted_to():
    assert deviation(BOTH) == pytest.approx(-0.2)
    slower = known(measured=MEASURED, predicted=measure(5.0, basis="predicted"), on=device())
    assert deviation(slower) == pytest.approx(0.6)
    assert "60.0 % above the measured median" in facts(slower)[1].basis


@pytest.mark.parametrize(
    "lacking",
    [
        known(predicted=PREDICTED, on=device()),
        known(measured=MEASURED, on=device()),
        known(measured=MEASURED, predicted=PREDICTED),
        known(),
    ],
)
def test_without_both_figures_there_is_no_deviation(lacking):
    assert deviation(lacking) is None


def test_a_measured_latency_without_its_record_still_says_what_it_is():
    [only] = facts(known(measured=measure(3.5, n=50)))
    assert only.basis == "measured on the device: mean, n = 50"


def test_a_bound_is_told_only_where_nothing_better_is_known():
    [only] = facts(known(bound=BOUND))
    assert only.figure == "at least 0.0500 ms"
    assert only.basis == "bound, not a prediction, 2 threads"
    assert "bound" not in [fact.basis for fact in facts(BOTH)]
    assert facts(known())[0].figure == DASH


def test_a_time_that_does_not_count_is_told_last_with_its_reason():
    strange = known(predicted=PREDICTED, on=device(why_not="odd"))
    first, last = facts(strange)
    assert first.basis.startswith("predicted")
    assert last == (
        "Not counted",
        "3.12 ms",
        "measured on ssh://pi@kitchen (Cortex-A72), which is no figure of this target: odd",
    )
    refused = {"machine": "container:linux/arm64", "created": "2026", "why_not": "emulated"}
    assert facts(known(on=refused))[-1].figure == DASH
    assert deviation(strange) is None


def test_a_cell_says_its_basis():
    assert short(BOTH) == ("3.50", "measured; predicted 20.0 % below the measured median")
    assert short(known(predicted=PREDICTED)) == ("2.50", "predicted")
    assert short(known(bound=BOUND)) == ("at least 0.0500", "bound")
    assert short(known()) == (DASH, "")


def test_what_the_device_could_not_repeat_is_marked():
    unsteady = known(measured=MEASURED, on=device(stable=False, spread=0.123))
    assert is_unstable(unsteady)
    assert facts(unsteady)[0].basis.endswith("UNSTABLE: repeats 12.3 % apart")
    for stable in (True, None):
        assert not is_unstable(known(measured=MEASURED, on=device(stable=stable)))
    assert not is_unstable(known(on=device(stable=False)))
