"""Whatever target ships, its figures have an origin and its file can be used."""

import re
import tomllib

import pytest

from pipeline.core.target import Target, shipped
from pipeline.core.target_review import oddities

TARGETS = sorted(shipped())
#: What runs there is made by a vendor's tools, from the files that pare makes.
VENDOR_TOOLS = ["smart-camera-imx500", "stm32h7"]
#: Each has its reason in its first lines.
NO_CALIBRATION = "there is no [[calibration]]: latency is at best bounded, never predicted"


def test_discovery_finds_exactly_the_targets_that_ship():
    assert TARGETS == [
        "android-entry",
        "android-flagship",
        "android-midrange",
        "coral-edgetpu",
        "generic-x86",
        "raspberry-pi-3b-plus",
        "raspberry-pi-4b",
        "raspberry-pi-5",
        "raspberry-pi-zero-2w",
        "smart-camera-imx500",
        "smart-camera-imx8mp",
        "smart-camera-rk3588",
        "stm32h7",
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_loads_under_its_own_name(name):
    target = Target.load(name)
    assert target.id == name
    assert target.name


@pytest.mark.parametrize("name", TARGETS)
def test_every_figure_has_a_basis_and_a_source(name):
    rows = Target.load(name).figures()
    assert len(rows) >= 5
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
def test_every_format_has_a_runtime_to_run_it_or_the_vendor_s_tools(name):
    target = Target.load(name)
    assert (target.class_ in ("mcu", "on-sensor")) is (name in VENDOR_TOOLS)
    for file_format in target.constraints.formats:
        assert (target.runtime_for(file_format) is None) is (name in VENDOR_TOOLS)


@pytest.mark.parametrize("name", TARGETS)
def test_a_calibration_knows_its_range_or_claims_no_error(name):
    for row in Target.load(name).calibration:
        assert row.macs_min is not None
        assert row.macs_max is not None
        assert row.macs_min < row.macs_max
        assert row.loo_mape_pct is None or row.n_models >= 3


@pytest.mark.parametrize("name", TARGETS)
def test_what_ships_goes_together(name):
    target = Target.load(name)
    odd = [one for one in oddities(target) if one != NO_CALIBRATION]
    # The i.MX 8M Plus keeps its float rates: who allows floats in a copy needs them.
    expected = ["the calibration of xnnpack fp32 is for no file that is taken"]
    assert odd == (expected if name == "smart-camera-imx8mp" else [])


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_without_rates_says_so_in_its_first_lines(name):
    target = Target.load(name)
    comment = shipped()[name].read_text().partition("# Every physical")[0]
    words = " ".join(comment.replace("#", " ").split())
    assert bool(target.calibration) or "atency" in words


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_derived_claims_no_error_of_its_own(name):
    for row in Target.load(name).calibration:
        assert row.basis in ("fitted", "derived")
        assert row.basis == "fitted" or row.loo_mape_pct is None


@pytest.mark.parametrize("name", [n for n in TARGETS if n.startswith("raspberry-pi")])
def test_the_32_bit_system_of_a_board_takes_tflite_only(name):
    variants = Target.load(name).platform.variants
    assert [(v.docker_platform, v.formats) for v in variants] == (
        [("linux/arm/v7", ("tflite",))] if name in ARMV7 else []
    )


ARMV7 = ["raspberry-pi-3b-plus", "raspberry-pi-zero-2w"]


@pytest.mark.parametrize("name", TARGETS)
def test_an_accelerator_that_is_demanded_lists_what_it_computes(name):
    unit = Target.load(name).accelerator
    demanded = ["coral-edgetpu", "smart-camera-imx8mp"]
    assert (unit is not None and unit.on_fail == "reject") is (name in demanded)
    if name in demanded:
        assert unit.min_coverage_pct.value == 90
        assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} <= set(unit.ops.names)
        assert len(unit.ops.names) == len(set(unit.ops.names))
        assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", op) for op in unit.ops.names)
