"""Whatever target ships, its figures have an origin and its file can be used."""

import tomllib

import pytest

from pipeline.core.target import Target, shipped

TARGETS = sorted(shipped())


def test_discovery_finds_exactly_the_targets_that_ship():
    assert TARGETS == ["android-midrange", "raspberry-pi-4b", "smart-camera-imx8mp"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_loads_under_its_own_name(name):
    target = Target.load(name)
    assert target.id == name
    assert target.name


@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_has_a_basis_and_a_source(name):
    rows = Target.load(name).figures()
    assert len(rows) >= 15
    for row in rows:
        assert row.basis in ("vendor", "measured", "fitted", "derived", "assumed"), row
        assert len(row.source) > 10, row


def _naked_numbers(value, path=""):
    """Numbers in physical tables that stand alone, with no source beside them."""
    if isinstance(value, dict):
        if "source" in value:
            return []
        return [n for k, v in value.items() for n in _naked_numbers(v, f"{path}.{k}")]
    if isinstance(value, list):
        return [n for i, v in enumerate(value) for n in _naked_numbers(v, f"{path}.{i}")]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return [path] if is_number else []


@pytest.mark.parametrize("name", TARGETS)
def test_no_physical_number_stands_alone(name):
    raw = tomllib.loads(shipped()[name].read_text())
    settings = ("runtimes", "profile")  # thread counts and how to measure are choices
    physical = {key: table for key, table in raw.items() if key not in settings}
    assert _naked_numbers(physical) == []
    assert _naked_numbers({"memory": {"ram_mb": 1}}) == [".memory.ram_mb"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_limit_is_a_decision_and_says_so(name):
    target = Target.load(name)
    assert target.constraints.source
    assert target.budgets is not None
    assert target.budgets.source


@pytest.mark.parametrize("name", TARGETS)
def test_every_format_has_a_runtime_to_run_it(name):
    target = Target.load(name)
    for file_format in target.constraints.formats:
        assert target.runtime_for(file_format) is not None


@pytest.mark.parametrize("name", TARGETS)
def test_a_calibration_knows_its_range_or_claims_no_error(name):
    for row in Target.load(name).calibration:
        assert row.macs_min is not None
        assert row.macs_max is not None
        assert row.macs_min < row.macs_max
        assert row.loo_mape_pct is None or row.n_models >= 3
