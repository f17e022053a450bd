"""The host's measurements in full, and its conditions before and after."""

import pytest
from report_run import moment, records, timing, write_run

from pipeline.report import host, pictures, tables
from pipeline.report.collect import collect
from pipeline.report.html import page
from pipeline.report.tables import OPEN
from pipeline.report.wording import DASH, MINUS


def reported(*timings, conditions=None):
    return {
        "files": [{"file": "a.onnx", "latency": list(timings)}, {"file": "refused"}],
        "environment": {"conditions": conditions},
    }


def cells(report):
    table = host.details(report)
    titles = [column.title for column in table.columns]
    return [dict(zip(titles, row, strict=True)) for row in table.rows]


def test_all_that_was_measured_is_told():
    [found] = cells(reported(timing(2, 3.25, 3.5)))
    assert {title: (cell.text, cell.note) for title, cell in found.items()} == {
        "File": ("a.onnx", "2 threads, n = 100"),
        "Median": ("3.25", "2.93 to 3.58"),
        "p90": ("3.50", "claimed 3.57"),
        "p95": (DASH, ""),
        "p99": (DASH, ""),
        "Least": ("2.60", ""),
        "First": ("7.25", ""),
        "Load, cold": ("12.5", "warm 2.25, engine 30.0"),
        "Resident": ("54.3", "at most 65.4"),
        "Before and after": (
            "decode 2.12, prepare 0.375, interpret 0.0625",
            "JPEG of 640x480",
        ),
        "Repeats": ("2, 2.0 %", ""),
        "Drift": (f"{MINUS}1.2 %", ""),
    }


def test_what_is_missing_is_a_dash_and_never_a_zero():
    bare = timing(
        1, 3.25, None, p90_claim=None, minimum=None, first_ms=None, load={}, memory=None,
        around={"why": "no image"}, windows_ms=[], stable=None, drift=None,
    )  # fmt: skip
    [found] = cells(reported(bare))
    told = {title: cell for title, cell in found.items() if title not in ("File", "Median")}
    assert {cell.text for cell in told.values()} == {DASH}
    assert told["p90"].note == f"claimed {DASH}"
    assert told["Before and after"].note == "no image"
    assert not any("0" in cell.text + cell.note for cell in told.values())


def test_a_zero_that_was_measured_is_no_dash():
    [found] = cells(reported(timing(1, 3.25, 3.5, drift=0.0)))
    assert found["Drift"].text == "0.0 %"


def test_one_repeat_says_nothing_of_repeatability():
    [found] = cells(reported(timing(1, 3.25, 3.5, stable=None, windows_ms=[3.25])))
    assert found["Repeats"].text == "one"
    assert "nothing is known" in found["Repeats"].note


def test_a_page_cache_that_stayed_full_is_told():
    load = {"cold_ms": 1.0, "warm_ms": 1.0, "import_ms": 1.0, "cache_dropped": False}
    [found] = cells(reported(timing(1, 3.25, 3.5, load=load)))
    assert "could not be emptied" in found["Load, cold"].note


@pytest.mark.parametrize(("stable", "marks"), [(False, True), (True, False), (None, False)])
def test_unstable_times_are_marked_in_every_table_and_picture(tmp_path, stable, marks):
    found = records()
    [first, _] = found["beside"]["profile"]["profile.json"]["files"]
    first["latency"] = [timing(1, 3.25, 3.5, stable=stable, spread=0.123)]
    report = collect(write_run(tmp_path / "run", found))
    cell = tables.files(report).rows[0][5]
    assert (cell.mark == OPEN, "UNSTABLE" in cell.note) == (marks, marks)
    assert (cells(report)[0]["Repeats"].mark == OPEN) == marks
    assert bool(host.unstable(report)) == marks
    scatter = next(p for p in pictures.files(report) if p.title == "Accuracy against latency")
    assert ("float32 onnx (unstable)" in scatter.svg) == marks
    assert "12.3" in page(report)[page(report).index("UNSTABLE") :] if marks else True


def pairs(conditions):
    rows = host.conditions(reported(conditions=conditions)).rows
    return {name.text: told.text for name, told in rows}


def test_conditions_are_those_before_and_after():
    after = moment(
        frequency_mhz=1400.0, temperature_c=51.5, load_average=[1.0, 0.5, 0.25],
        throttled={"now": ["frequency capped"], "since_boot": ["under-voltage"]},
    )  # fmt: skip
    told = pairs({"before": moment(), "after": after, "versions": {"numpy": "2.4.6"}})
    assert told == {
        "Processor": "A <cpu>",
        "Cores": "4",
        "Cores usable": "2",
        "Frequency governor": "powersave",
        "Frequency, MHz": "1,500 before, 1,400 after",
        "Temperature, °C": "40.0 before, 51.5 after",
        "Throttled": "frequency capped; since it started: under-voltage",
        "Load average (1, 5, 15 min)": "0.50, 0.25, 0.12 before; 1.00, 0.50, 0.25 after",
        "Limits of the container": "cores 2.00",
        "Emulation": "none found",
        "System": "Linux-6",
        "Versions": "numpy 2.4.6",
    }


def test_conditions_that_are_not_known_are_dashes():
    told = pairs(None)
    assert told.pop("Emulation") == "not known"
    assert set(told.values()) == {DASH}


def test_the_mean_of_all_cores_stands_for_a_frequency_that_is_not_told():
    one = moment(frequency_mhz=None, frequencies_mhz=[1000.0, 2000.0])
    other = moment(frequency_mhz=None, frequencies_mhz=[])
    told = pairs({"before": one, "after": other, "versions": {}})
    assert told["Frequency, MHz"] == f"1,500 before, {DASH} after"


def test_emulation_and_no_throttling_and_no_limit_are_told():
    calm = moment(emulation="qemu", limits={}, throttled={"now": [], "since_boot": []})
    told = pairs({"before": calm, "after": calm, "versions": {}})
    assert (told["Emulation"], told["Throttled"], told["Limits of the container"]) == (
        "qemu", "not now", "none",
    )  # fmt: skip


def test_the_conditions_of_a_run_reach_its_report(tmp_path):
    report = collect(write_run(tmp_path / "run"))
    found = report["environment"]["conditions"]
    assert found["before"]["temperature_c"] == 40.0
    assert found["after"]["temperature_c"] == 51.5
    assert "1,500 before, 1,400 after" in page(report)
