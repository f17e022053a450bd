"""Rates from measured profiles: what is read, what is refused, what is found."""

import json
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profile_files import profile_json

from pipeline.core.errors import PareError
from pipeline.core.target import Rates
from pipeline.profilers.calibration import Sample, calibrate, named, residuals, samples

TODAY = date(2026, 11, 21)
TRUE = Rates(r_gmac_s=12.5, b_gb_s=2.5)
NETWORKS = {
    "v1": (568_740_352, 40_955_808),
    "v2": (300_774_272, 56_637_856),
    "r8": (12_501_632, 1_302_568),
    "sq": (387_747_520, 38_758_412),
}


def profile(name="v1", factor=1.0, **changes):
    """What a profile of one network holds; ``a__b`` changes the key b of the table a."""
    macs, moved = NETWORKS[name]
    own = {
        "file__name": f"{name}.tflite",
        "file__sha256": name * 32,
        "graph__macs": macs,
        "graph__activation_bytes": moved,
        "graph__dtype": "fp32",
        "measured__stable": True,
        "measured__median__value": factor * TRUE.ms(macs, moved),
    }
    return profile_json(**{**own, **changes})


@pytest.fixture
def write(tmp_path):
    def writer(content, name="profile.json"):
        path = tmp_path / name
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8")
        return path

    return writer


@pytest.fixture
def read(write):
    def reader(*profiles):
        return samples(write(one, f"{number}.json") for number, one in enumerate(profiles))

    return reader


def test_a_profile_is_read(read):
    (sample,) = read(profile("v2"))
    assert (sample.macs, sample.activation_bytes) == NETWORKS["v2"]
    assert sample.conditions == ("xnnpack", "2.3.0", "fp32", 4)
    assert (sample.file, sample.target) == ("v2.tflite", "raspberry-pi-4b")
    assert named(sample) == "xnnpack 2.3.0, fp32, 4 threads"


def test_an_onnx_profile_is_of_onnxruntime(read):
    (sample,) = read(
        profile(file__format="onnx", measured__runtime_version="1.31.1",
                measured__threads=1)
    )  # fmt: skip
    assert named(sample) == "onnxruntime 1.31.1, fp32, 1 thread"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "other/1"}, "is no profile of `pare profile`"),
        ({"complete": False}, "complete"),
        ({"measured": None}, "holds no measurement. Rates are fitted to times that were"),
        (
            {"measured": None, "refused": "user-mode emulation by qemu-aarch64"},
            "holds no measurement: user-mode emulation by qemu-aarch64",
        ),
        ({"stranger": "it is amd64"}, "was not measured on raspberry-pi-4b: it is amd64"),
        ({"measured__stable": False}, "did not settle. Measure again on a quiet device"),
        ({"graph__dtype": "mixed"}, "computes in mixed, which no single pair of rates"),
        ({"graph__macs": 0}, "is damaged: macs: input should be greater than 0"),
        ({"measured__median__value": -1.0}, "is damaged: median_ms: input should be greater"),
        ({"measured__median__value": float("nan")}, "measured"),
        ({"measured__threads": 0}, "is damaged: threads"),
        ({"graph": {}}, "graph.dtype"),
        ({"file": None}, "file"),
    ],
)
def test_what_can_not_calibrate_is_refused_by_its_name(read, changes, message):
    with pytest.raises(PareError, match=rf"0\.json.*{message}"):
        read(profile(**changes))


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", '"text"', '{"schema": 1}', "\x00", "[" * 100_000]
)
def test_a_damaged_file_is_refused(write, text):
    with pytest.raises(PareError, match=r"profile\.json is no (readable )?profile"):
        samples([write(text)])


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "profile.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PareError, match="is no readable profile"):
        samples([path])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(PareError, match=r"none\.json is no readable profile .*No such file"):
        samples([tmp_path / "none.json"])


def test_the_rates_that_made_the_times_are_found(read):
    (found,) = calibrate(read(*map(profile, NETWORKS)), "raspberry-pi-4b", TODAY)
    assert (found.r_gmac_s, found.b_gb_s) == (12.5, 2.5)
    assert (found.runtime, found.version, found.dtype) == ("xnnpack", "2.3.0", "fp32")
    assert (found.n_models, found.loo_mape_pct, found.basis) == (4, 0.1, "fitted")
    assert (found.macs_min, found.macs_max) == (12_501_632, 568_740_352)
    assert found.source.startswith(
        "pare profile, fitted 2026-11-21 to v1.tflite (v1v1v1v1v1v1"
    )


@given(st.floats(0.1, 500), st.floats(0.05, 20))
def test_any_rates_are_found(r_gmac_s, b_gb_s):
    rates = Rates(r_gmac_s=r_gmac_s, b_gb_s=b_gb_s)
    group = [
        Sample(
            profile=f"{name}.json", target="board", runtime="onnxruntime", version=None,
            dtype="int8", threads=1, macs=macs, activation_bytes=moved,
            median_ms=rates.ms(macs, moved), file=name, sha256=name,
        )
        for name, (macs, moved) in NETWORKS.items()
    ]  # fmt: skip
    (found,) = calibrate(group, "board", TODAY)
    assert found.r_gmac_s == pytest.approx(r_gmac_s, rel=1e-3)
    assert found.b_gb_s == pytest.approx(b_gb_s, rel=1e-3)
    assert found.loo_mape_pct == 0.1
    assert all(abs(missed) < 0.2 for _, missed in residuals(found, group))


def test_two_networks_give_rates_without_an_error(read):
    (found,) = calibrate(read(profile("v1"), profile("v2")), "raspberry-pi-4b", TODAY)
    assert (found.r_gmac_s, found.b_gb_s) == (12.5, 2.5)
    assert found.loo_mape_pct is None


def test_a_slow_run_shows_in_the_error(read):
    slow = [profile("v1", factor=1.1), *map(profile, ("v2", "r8", "sq"))]
    (found,) = calibrate(read(*slow), "raspberry-pi-4b", TODAY)
    assert found.loo_mape_pct > 3


def test_what_runs_differently_is_fitted_apart(read):
    single = [
        profile(name, factor=3, measured__threads=1, file__sha256=f"{name}-1")
        for name in ("v1", "v2")
    ]
    found = calibrate(read(profile("v1"), profile("v2"), *single), "raspberry-pi-4b", TODAY)
    assert [(one.threads, one.r_gmac_s) for one in found] == [(4, 12.5), (1, 4.167)]


def refused(read, *profiles):
    with pytest.raises(PareError) as error:
        calibrate(read(*profiles), "raspberry-pi-4b", TODAY)
    return str(error.value)


def test_a_profile_of_another_device_is_refused(read):
    text = refused(read, profile("v1"), profile("v2", target="my-board"))
    assert "1.json was measured on 'my-board', not on 'raspberry-pi-4b'" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"measured__threads": 1},
        {"graph__dtype": "int8"},
        {"measured__runtime_version": "2.4.0"},
    ],
)
def test_a_profile_that_stands_alone_is_refused(read, changes):
    text = refused(read, profile("v1"), profile("v2"), profile("sq", **changes))
    assert "2.json is the only profile of xnnpack" in text
    assert "two rates need at least two networks" in text


def test_the_same_file_twice_is_refused(read):
    text = refused(read, profile("v1"), profile("v2"), profile("v1", factor=1.1))
    assert "0.json" in text
    assert "2.json are of the same network" in text


def test_the_same_network_with_other_weights_is_refused(read):
    text = refused(read, profile("v1"), profile("v1", file__sha256="other"))
    assert "are of the same network" in text


def test_networks_that_differ_in_size_alone_are_refused(read):
    macs, moved = NETWORKS["v1"]
    double = profile(
        "sq",
        graph__macs=2 * macs,
        graph__activation_bytes=2 * moved,
        measured__median__value=99.0,
    )
    text = refused(read, profile("v1"), double)
    assert "don't tell the time of a MAC from that of a byte" in text
    assert "v1.tflite has 13.9 MACs a byte" in text


def test_profiles_that_do_not_go_together_are_refused(read):
    text = refused(read, profile("r8", factor=0.3), *map(profile, ("v1", "v2", "sq")))
    assert "don't go together: left out, a network is missed by 107 % on average" in text
    assert "0.json by +233 %" in text


def test_one_very_slow_run_is_an_error_and_no_refusal(read):
    slow = [profile("v1", factor=4), *map(profile, ("v2", "r8", "sq"))]
    (found,) = calibrate(read(*slow), "raspberry-pi-4b", TODAY)
    assert found.loo_mape_pct == pytest.approx(31.8)


def test_no_profile_is_refused():
    with pytest.raises(PareError, match="no profile is given"):
        calibrate([], "raspberry-pi-4b", TODAY)
