"""report.json is what its schema says, and the schema notices what is not."""

import copy
import json
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator
from report_run import measure, records, write_run

from pipeline.report import write
from pipeline.report.collect import SCHEMA_VERSION

SCHEMA = json.loads(files("pipeline.report").joinpath("schema.json").read_text("utf-8"))


def problems(report):
    return [
        f"{error.json_path}: {error.message}"
        for error in Draft202012Validator(SCHEMA).iter_errors(report)
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(write_run(tmp_path_factory.mktemp("schema") / "run", records()))


def test_the_schema_is_one_and_of_this_version():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


def test_a_report_keeps_to_it(report):
    assert problems(report) == []
    assert set(report) == set(SCHEMA["properties"]) == set(SCHEMA["required"])


def test_a_report_with_regressions_keeps_to_it(tmp_path):
    folder = write_run(tmp_path / "run", records())
    write(folder)
    larger = records()
    larger["beside"]["export"]["files.json"][0]["bytes"] *= 2
    write_run(folder, larger)
    old = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    (folder / "report.json").write_text(json.dumps(old | {"created": "earlier"}))
    report = write(folder)
    assert report["regressions"]
    assert problems(report) == []


CHANGES = {
    "a key more": lambda r: r.update(extra=1),
    "a key less": lambda r: r.pop("targets"),
    "another version": lambda r: r.update(schema_version=2),
    "a basis that is none": lambda r: r["accuracy"]["trained"].update(basis="guessed"),
    "an accuracy in percent": lambda r: r["accuracy"]["trained"].update(value=90),
    "a predicted host latency": lambda r: timing(r)["median"].update(basis="predicted"),
    "a measured prediction": lambda r: row(r)["predicted"].update(basis="measured"),
    "a latency without its unit": lambda r: timing(r)["median"].pop("unit"),
    "a half interval": lambda r: timing(r)["median"].update(spread=[1.0]),
    "a timing without its conditions": lambda r: timing(r).pop("conditions"),
    "a timing with a key more": lambda r: timing(r).update(extra=1),
    "no threads": lambda r: timing(r).update(threads=0),
    "a verdict in words": lambda r: row(r)["checks"][0].update(passed="yes"),
    "a verdict without its device": lambda r: row(r).pop("on_device"),
    "bytes that are text": lambda r: r["files"][0].update(bytes="1"),
    "a state that is none": lambda r: r["files"][0].update(state="fine"),
    "a format that is none": lambda r: r["files"][0].update(format="pt"),
    "a key that is no digest": lambda r: r["keys"].update(train="1"),
    "half a layer": lambda r: r["layers"][0].pop("macs"),
    "a regression that is none": lambda r: r["regressions"].append({"quantity": "size"}),
    "an unknown stage": lambda r: r["environment"]["stages"][0].update(stage="package"),
}


def timing(report):
    return report["files"][0]["latency"][0]


def row(report):
    return report["targets"][0]["files"][0]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_field_is_noticed(report, change):
    spoilt = copy.deepcopy(report)
    change(spoilt)
    assert problems(spoilt)


def test_a_device_that_measured_is_allowed(report):
    found = copy.deepcopy(report)
    row(found)["measured"] = measure(3.5, n=200, statistic="p90")
    row(found)["on_device"] = {
        "machine": "ssh://pi", "created": "2026", "why_not": None, "cpu": None,
        "runtime": "litert 2", "typical": measure(3.0, n=200), "statistic": "median",
        "stable": None, "spread": 0.0,
    }  # fmt: skip
    assert problems(found) == []
    row(found)["on_device"]["statistic"] = "p90"
    assert problems(found)
