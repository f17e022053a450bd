import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError


@given(st.integers(1, 1000), st.integers(1, 10**8))
def test_kept_is_the_largest_whole_number_under_the_fraction(thousandths, total):
    fraction = thousandths / 1000
    if fraction * total < 1:
        with pytest.raises(PareError, match="keeps none"):
            Budget(weights=fraction).kept(total)
        return
    kept = Budget(weights=fraction).kept(total)
    assert 1000 * kept <= thousandths * total < 1000 * (kept + 1)  # in whole numbers: exact


def test_a_decimal_fraction_does_not_lose_a_weight_to_rounding():
    assert Budget(weights=0.1).kept(30) == 3
    assert Budget(weights=0.29).kept(100) == 29  # 0.29 * 100 is 28.999999999999996
    assert int(0.29 * 100) == 28  # the twin: what plain truncation would keep
    assert Budget(weights=0.282).kept(100_000_000) == 28_200_000
    assert int(0.282 * 100_000_000 + 1e-9) == 28_199_999  # the twin: a tiny term is too tiny


def test_all_is_all():
    assert Budget().kept(7) == 7


def test_a_budget_that_keeps_nothing_says_what_would():
    with pytest.raises(PareError, match=r"0\.001 of 200 weights keeps none\. .*least 0\.005"):
        Budget(weights=0.001).kept(200)


def test_a_network_without_weights_is_refused():
    with pytest.raises(PareError, match=r"no weights .* Choose another model"):
        Budget().kept(0)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan"), float("inf")])
def test_an_impossible_budget_is_no_budget(fraction):
    with pytest.raises(ValidationError):
        Budget(weights=fraction)
