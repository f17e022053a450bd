import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.core.target import Rates
from pipeline.profilers.rates import Run, common_balance, error, fit, leave_one_out, mape

MACS = [569e6, 301e6, 217e6, 57e6, 1814e6]
BYTES = [41e6, 57e6, 60e6, 22e6, 32e6]

rates_of = st.builds(
    Rates, r_gmac_s=st.floats(0.1, 500), b_gb_s=st.floats(0.05, 50)
)  # no overhead


def timed(rates: Rates, macs=MACS, moved=BYTES) -> list[Run]:
    return [Run(m, b, rates.ms(m, b)) for m, b in zip(macs, moved, strict=True)]


@given(rates_of)
def test_rates_that_made_the_times_are_found_again(rates):
    balance = rates.r_gmac_s / rates.b_gb_s
    assume(0.01 < balance < 1000)  # else one of the two costs is below a rounding error
    found = fit(timed(rates))
    assert found.own
    assert found.rates.r_gmac_s == pytest.approx(rates.r_gmac_s, rel=1e-6)
    assert found.rates.b_gb_s == pytest.approx(rates.b_gb_s, rel=1e-6)


@given(rates_of)
def test_what_follows_from_two_rates_is_predicted_without_error(rates):
    assume(0.01 < rates.r_gmac_s / rates.b_gb_s < 1000)
    assert mape(leave_one_out(timed(rates))) == pytest.approx(0, abs=1e-4)


def test_a_time_that_is_two_percent_off_is_noticed():
    runs = timed(Rates(r_gmac_s=10, b_gb_s=3))
    spoilt = [runs[0]._replace(ms=runs[0].ms * 1.02), *runs[1:]]
    found = fit(spoilt).rates
    assert found.r_gmac_s != pytest.approx(10, rel=1e-3)
    assert mape(leave_one_out(spoilt)) > 0.5


@given(
    st.lists(
        st.builds(Run, st.floats(1e6, 1e10), st.floats(1e5, 1e9), st.floats(0.01, 1e4)),
        min_size=1,
        max_size=8,
    ),
    st.floats(0.5, 200),
)
def test_no_rate_is_ever_negative_and_a_balance_always_helps(runs, balance):
    found = fit(runs, balance)
    assert found.rates.r_gmac_s > 0
    assert found.rates.b_gb_s > 0
    if not found.own:
        assert found.rates.r_gmac_s == pytest.approx(balance * found.rates.b_gb_s)
        assert fit(runs) is None


@given(
    st.lists(
        st.builds(Run, st.floats(1e7, 1e9), st.floats(1e6, 1e8), st.floats(1, 100)),
        min_size=2,
        max_size=6,
    )
)
def test_no_other_rates_fit_better(runs):
    found = fit(runs)
    assume(found is not None)

    def misfit(rates):
        return math.fsum(error(run, rates) ** 2 for run in runs)

    best = misfit(found.rates)
    r, b = found.rates.r_gmac_s, found.rates.b_gb_s
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert misfit(Rates(r_gmac_s=r * factor, b_gb_s=b)) >= best * (1 - 1e-9) - 1e-12
        assert misfit(Rates(r_gmac_s=r, b_gb_s=b * factor)) >= best * (1 - 1e-9) - 1e-12


def test_networks_of_one_shape_tell_no_two_rates():
    runs = [Run(100e6 * k, 4e6 * k, 12.0 * k) for k in (1, 2, 3)]
    assert fit(runs) is None
    assert leave_one_out(runs) is None


def test_a_negative_cost_is_no_rate():
    # More bytes and less time at equal MACs: bytes would have to give time back.
    runs = [Run(100e6, 1e6, 12.0), Run(100e6, 4e6, 10.0), Run(200e6, 2e6, 23.0)]
    assert fit(runs) is None
    assert not fit(runs, balance=10.0).own


def test_an_error_is_counted_from_the_measured_time():
    rates = Rates(r_gmac_s=10, b_gb_s=1)
    assert error(Run(100e6, 0, 8.0), rates) == pytest.approx(0.25)


@given(st.floats(1, 100), st.lists(st.floats(0.1, 10), min_size=1, max_size=4))
def test_devices_of_one_balance_give_it_whatever_their_speed(balance, speeds):
    sets = [timed(Rates(r_gmac_s=balance * speed, b_gb_s=speed)) for speed in speeds]
    assert common_balance(sets) == pytest.approx(balance, rel=0.031)


def test_one_network_a_device_says_nothing_of_a_balance():
    assert common_balance([[Run(1e6, 1e6, 1.0)], [Run(2e6, 1e6, 1.0)]]) is None


def test_balances_are_those_of_the_network_left_out():
    rates = Rates(r_gmac_s=10, b_gb_s=1)
    runs = timed(rates)[:2]
    assert leave_one_out(runs, [10.0, 10.0]) == pytest.approx([0, 0])
    wrong = leave_one_out(runs, [10.0, 20.0])
    assert wrong[0] == pytest.approx(0)
    assert abs(wrong[1]) > 0.05
