"""What devices measured, joined to the verdicts that rest on it."""

import hashlib
import json

import pytest
from profile_files import profile_json
from report_run import measure, records, row, write_run

from pipeline.report.collect import collect
from pipeline.report.on_device import with_devices

SHA = "5" * 64
HASHES = {"a.tflite": SHA}


def kept(tmp_path, **changes):
    found = profile_json(file__sha256=SHA, **changes)
    folder = tmp_path / "profiles" / "raspberry-pi-4b"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.tflite.json").write_text(json.dumps(found))
    return found


def joined(tmp_path, measured, **changes):
    target = {"id": "raspberry-pi-4b", "files": [row("a.tflite", [], measured=measured)]}
    found = with_devices(tmp_path, target | changes, HASHES)
    return found["files"][0]["on_device"]


def test_the_machine_of_a_measured_latency_is_told(tmp_path):
    record = kept(tmp_path)
    claim = record["measured"]["p90_claim"]
    told = joined(tmp_path, claim)
    assert told["machine"] == "ssh://pi@kitchen"
    assert told["why_not"] is None
    assert told["typical"] == record["measured"]["median"]
    assert told["statistic"] == "median"
    assert (told["stable"], told["spread"]) == (
        record["measured"]["stable"], record["measured"]["spread"],
    )  # fmt: skip


def test_a_tool_that_knows_no_median_gives_its_mean(tmp_path):
    record = kept(
        tmp_path, measured__median=None, measured__p90_claim=None, measured__p95=None
    )
    told = joined(tmp_path, record["measured"]["mean"])
    assert (told["statistic"], told["typical"]) == ("mean", record["measured"]["mean"])


def test_a_record_of_another_measurement_is_not_joined(tmp_path):
    record = kept(tmp_path)
    value = record["measured"]["p90_claim"]["value"]
    assert joined(tmp_path, measure(value)) is not None
    assert joined(tmp_path, measure(value * 1.0001)) is None
    assert joined(tmp_path, None) is None


def test_why_a_time_does_not_count_is_told(tmp_path):
    kept(tmp_path, stranger="another processor")
    told = joined(tmp_path, None)
    assert told["why_not"] == "another processor"
    kept(tmp_path, refused="emulated", measured=None)
    assert joined(tmp_path, None) == {
        "machine": "ssh://pi@kitchen", "created": told["created"], "why_not": "emulated",
    }  # fmt: skip


def test_nothing_is_joined_of_another_target_or_file_or_of_harmed_records(tmp_path):
    record = kept(tmp_path)
    claim = record["measured"]["p90_claim"]
    assert joined(tmp_path, claim, id="raspberry-pi-5") is None
    kept(tmp_path, target="raspberry-pi-5")
    assert joined(tmp_path, claim) is None
    (tmp_path / "profiles" / "raspberry-pi-4b" / "a.tflite.json").write_text("{")
    assert joined(tmp_path, claim) is None


@pytest.mark.parametrize("same", [True, False])
def test_a_run_joins_them_by_the_hash_of_its_files(tmp_path, same):
    name = "model.float32.onnx"
    found = records()
    found["beside"]["export"][name] = "the file"
    content = b'"the file"' if same else b'"another"'
    record = profile_json(file__sha256=hashlib.sha256(content).hexdigest(), target="board")
    target = found["beside"]["profile"]["profile.json"]["targets"][0]
    target["files"][0]["measured"] = record["measured"]["p90_claim"]
    folder = write_run(tmp_path / "run", found)
    kept_in = folder / "profiles" / "board"
    kept_in.mkdir(parents=True)
    (kept_in / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    first, second = collect(folder)["targets"][0]["files"]
    assert (first["on_device"] is not None) == same
    assert second["on_device"] is None
