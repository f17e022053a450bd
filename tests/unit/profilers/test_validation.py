"""The predictor on published rows, and on rows whose rates are known."""

import csv
from itertools import product

import pytest
from conftest import ROOT

from pipeline.cli.validating import lines, rows_as_csv
from pipeline.core.target import Rates, Target
from pipeline.profilers.published import Counted, Published, count, published
from pipeline.profilers.rates import Run, fit
from pipeline.profilers.validation import LIMITS_PCT, validate

COSTS = {
    "a": Counted(569_000_000, 10_240_000),
    "b": Counted(301_000_000, 14_160_000),
    "c": Counted(217_000_000, 15_070_000),
    "d": Counted(1_814_000_000, 7_950_000),
}


def row(network, rates, device="board", runtime="XNNPACK", factor=1.0, **more):
    cost = COSTS[network]
    return Published(
        model=network, network=network, device=device, unit="", runtime=runtime,
        tool=runtime, dtype="int8", threads="4",
        ms=factor * rates.ms(cost.macs, cost.elements), **more,
    )  # fmt: skip


RATES = {
    "slow": Rates(r_gmac_s=3, b_gb_s=0.3),
    "fast": Rates(r_gmac_s=30, b_gb_s=3),
    "wide": Rates(r_gmac_s=20, b_gb_s=9),
}


def rows(devices=("slow", "fast"), networks="abcd"):
    return [row(n, RATES[d], d) for d, n in product(devices, networks)]


@pytest.fixture(scope="module")
def found():
    return validate(published())


@pytest.mark.parametrize("runtime", LIMITS_PCT)
def test_the_error_on_published_rows_is_within_its_limit(found, runtime):
    summary = next(one for one in found.runtimes if one.runtime == runtime)
    assert summary.held
    assert summary.mape_pct <= LIMITS_PCT[runtime]
    assert summary.mape_with_disturbed_pct <= LIMITS_PCT[runtime]


def test_the_limits_are_the_promised_ones():
    assert LIMITS_PCT == {"XNNPACK": 15, "ncnn": 25}


def test_no_row_goes_missing(found):
    counts = {one.runtime: (one.sets, one.rows, one.left_out) for one in found.runtimes}
    assert counts == {
        "XNNPACK": (16, 54, 0), "ncnn": (70, 458, 13), "TFLite": (8, 37, 4),
        "onnxruntime": (6, 18, 0),
    }  # fmt: skip


def test_the_committed_table_is_what_is_found(found):
    path = ROOT / "benchmarks" / "results" / "predictor.csv"
    with path.open(newline="", encoding="utf-8") as file:
        kept = [float(line["error_pct"]) for line in csv.DictReader(file)]
    assert kept == pytest.approx([one.error_pct for one in found.rows], abs=0.06)
    assert "\n".join(lines(found)).startswith("Prediction error")


def test_the_intervals_hold_nearly_as_often_as_promised(found):
    assert all(one.inside_pct > 80 for one in found.runtimes)


def test_rows_that_follow_from_two_rates_are_predicted_without_error():
    found = validate(rows(), COSTS.__getitem__)
    assert len(found.rows) == 8
    assert not any(one.borrowed for one in found.rows)
    assert found.runtimes[0].mape_pct == pytest.approx(0, abs=1e-6)
    assert found.sets[0].in_sample_mape_pct == pytest.approx(0, abs=1e-6)


def test_a_row_ten_percent_off_is_noticed():
    spoilt = [row("a", RATES["slow"], "slow", factor=1.1), *rows()[1:]]
    found = validate(spoilt, COSTS.__getitem__)
    errors = {(one.row.device, one.row.network): one.error_pct for one in found.rows}
    assert errors["slow", "a"] == pytest.approx(100 / 1.1 - 100, abs=0.1)
    assert errors["fast", "a"] == pytest.approx(0, abs=1e-6)


def test_two_networks_borrow_the_balance_of_the_other_devices():
    few = [row(n, RATES["fast"], "fast") for n in "ab"]
    found = validate([*rows(("slow",)), *few], COSTS.__getitem__)
    borrowed = [one for one in found.rows if one.borrowed]
    assert [(one.row.device, one.row.network) for one in borrowed] == [
        ("fast", "a"), ("fast", "b"),
    ]  # fmt: skip
    assert all(abs(one.error_pct) < 1.5 for one in borrowed)  # balances are 3 % apart


def test_what_a_network_is_on_other_devices_does_not_help_to_predict_it():
    """Wrong rows of a network on another device change nothing of its prediction."""
    few = [row(n, RATES["fast"], "fast") for n in "ab"]
    right, wrong = (
        validate(
            [*rows(("slow",), "bcd"), row("a", RATES["slow"], "slow", factor=f), *few],
            COSTS.__getitem__,
        )
        for f in (1, 3)
    )
    predicted = [
        next(o.predicted_ms for o in v.rows if (o.row.device, o.row.network) == ("fast", "a"))
        for v in (right, wrong)
    ]
    assert predicted[0] == predicted[1]


def test_a_runtime_has_no_say_in_the_balance_of_another():
    few = [row(n, RATES["fast"], "fast") for n in "ab"]
    other = [row(n, RATES["wide"], "wide", runtime="ncnn") for n in "abcd"]
    alone, beside = (
        validate([*rows(("slow",)), *few, *more], COSTS.__getitem__) for more in ([], other)
    )
    assert [one.error_pct for one in beside.rows if one.row.runtime == "XNNPACK"] == [
        one.error_pct for one in alone.rows
    ]


def test_a_disturbed_row_is_left_out_and_counted_beside():
    noisy = row("a", RATES["slow"], "slow", factor=4)
    noisy = noisy.model_copy(update={"fastest_ms": noisy.ms / 4})
    found = validate([noisy, *rows()[1:]], COSTS.__getitem__)
    (summary,) = found.runtimes
    assert (summary.rows, summary.left_out) == (7, 1)
    assert summary.mape_pct == pytest.approx(0, abs=1e-6)
    assert summary.mape_with_disturbed_pct > 15
    assert not summary.held


def test_a_limit_that_does_not_hold_is_said():
    found = validate(rows(), COSTS.__getitem__).runtimes[0]
    assert not found.model_copy(update={"mape_pct": 15.1}).held
    assert not found.model_copy(update={"mape_with_disturbed_pct": 15.1}).held


def test_a_network_alone_in_its_set_is_compared_with_nothing():
    found = validate([*rows(("slow",)), row("a", RATES["fast"], "fast")], COSTS.__getitem__)
    assert {one.row.device for one in found.rows} == {"slow"}
    assert found.runtimes[0].left_out == 1


def test_rows_as_csv_can_be_read_again():
    text = rows_as_csv(validate(rows(), COSTS.__getitem__))
    read = list(csv.DictReader(text.splitlines()))
    assert len(read) == 8
    assert read[0]["network"] == "a"
    assert float(read[0]["error_pct"]) == 0


@pytest.mark.parametrize(("place", "dtype", "width"), [(0, "fp32", 4), (1, "int8", 1)])
def test_the_rates_of_the_pi_that_ship_are_those_of_its_published_rows(place, dtype, width):
    rows = [
        row
        for row in published()
        if (row.runtime, row.device, row.dtype) == ("XNNPACK", "RPi 4 (arm64)", dtype)
    ]
    costs = [count(row.network) for row in rows]
    runs = [
        Run(cost.macs, cost.elements * width, row.ms)
        for row, cost in zip(rows, costs, strict=True)
    ]
    found, kept = fit(runs).rates, Target.load("raspberry-pi-4b").calibration[place]
    assert (kept.dtype, kept.n_models) == (dtype, len(rows))
    assert found.r_gmac_s == pytest.approx(kept.r_gmac_s, rel=1e-3)
    assert found.b_gb_s == pytest.approx(kept.b_gb_s, rel=1e-3)


def test_the_error_of_the_pi_that_ships_is_no_smaller_than_what_is_found(found):
    one = next(s for s in found.sets if (s.device, s.dtype) == ("RPi 4 (arm64)", "fp32"))
    assert one.loo_mape_pct == pytest.approx(19.7, abs=0.05)
    assert one.loo_mape_pct <= Target.load("raspberry-pi-4b").calibration[0].loo_mape_pct
