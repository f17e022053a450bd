import pytest
from pydantic import ValidationError

from pipeline.core.measure import Measure


def test_a_measure_is_read_with_its_basis():
    assert str(Measure(value=2.5, unit="MB", basis="bound")) == "2.5 MB (bound)"
    assert str(Measure(value=3, unit="ms", basis="measured", n=100, spread=(2, 4))) == (
        "3 ms (2 to 4, measured, n=100)"
    )


@pytest.mark.parametrize("changes", [{"basis": "guessed"}, {"value": float("nan")}, {"m": 1}])
def test_what_is_no_measure_is_refused(changes):
    with pytest.raises(ValidationError):
        Measure(**{"value": 1.0, "unit": "ms", "basis": "measured", **changes})


def test_a_measure_survives_json_with_its_conditions():
    measure = Measure(value=1, unit="ms", basis="measured", conditions={"threads": 2})
    assert Measure.model_validate_json(measure.model_dump_json()) == measure
