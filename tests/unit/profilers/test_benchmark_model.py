# ruff: noqa: E501 - lines as the program prints them
import stat
import sys

import pytest
from tiny_files import onnx_file, tflite_file

from pipeline.core.errors import PareError
from pipeline.profilers.benchmark_model import from_benchmark_model, parse
from pipeline.profilers.measurement import Measurement
from pipeline.profilers.transports.talk import talk
from pipeline.runtime.harness import Settings

SETTINGS = Settings(threads=4, warmup_runs=2, warmup_s=0, runs=100, seconds=1, repeats=2)

# As LiteRT's program prints it; older ones end a line of counts with std.
WINDOW = """\
INFO: Initialized session in 1.506ms.
INFO: Running benchmark for at least 2 iterations and at least 0 seconds but terminate if exceeding 150 seconds.
INFO: count=2 first=17035 curr=14134 min=14003 max=17035 avg=14394.5 std=493
INFO: Running benchmark for at least 100 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=120 first=14187 curr=14178 min=14019 max=14604 avg={avg} std=101{more}
INFO: Inference timings in us: Init: 1506, First inference: 17035, Warmup (avg): 14394.5, Inference (avg): {avg}
INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=3.25
"""
TABLE = """\
============================== Summary by node type ==============================
\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t[times called]
\t                 CONV_2D\t        9\t    10.100\t    80.000%\t    80.000%\t     0.000\t        9
\t                 SOFTMAX\t        1\t     0.020\t    20.000%\t   100.000%\t     0.000\t        1
"""
MACHINE = "pare-machine: aarch64\npare-maps: yes\npare-governor: ondemand\npare-temperature: 41500\npare-cpu: CPU implementer\t: 0x41\npare-cpu: CPU part\t: 0xd08\n"


def printed(*windows):
    return MACHINE + "".join(f"pare-begin\n{window}" for window in windows)


def old(avg):
    return WINDOW.format(avg=avg, more="")


def new(avg, median):
    return WINDOW.format(avg=avg, more=f" p5=14020 median={median} p95=14500")


@pytest.fixture
def path(tmp_path):
    return tflite_file(tmp_path / "a.tflite")


def test_an_older_program_gives_a_mean_and_no_percentile(path):
    found = Measurement.of(
        parse(printed(old(14226.8), old(14300), old(14200) + TABLE), path, SETTINGS)
    )
    assert found.median is None
    assert found.typical.value == pytest.approx((14.2268 + 14.3) / 2)
    assert found.typical.n == 240
    assert (found.p90, found.p95, found.p90_claim) == (None, None, None)
    assert found.first_ms == pytest.approx(17.035)
    assert found.load["cold_ms"] == pytest.approx(1.506)
    assert found.stable is True
    assert found.conditions["before"]["cpu_parts"] == ["0xd08"]
    assert found.conditions["before"]["temperature_c"] == 41.5
    assert found.memory["steady_bytes"] == 3.25 * 2**20


def test_a_newer_program_gives_medians(path):
    found = parse(printed(new(14226.8, 14200), new(15600, 15500)), path, SETTINGS)
    taken = Measurement.of(found)
    assert taken.median.value == pytest.approx((14.2 + 15.5) / 2)
    assert taken.stable is False
    assert found["operators"]["why"] == "benchmark_model printed no times of operators"


def test_operators_are_read_by_type(path):
    found = parse(printed(old(1), old(1), old(1) + TABLE), path, SETTINGS)["operators"]
    assert [(k["kernel"], k["median_ms"]) for k in found["kernels"]] == [
        ("CONV_2D", 10.1), ("SOFTMAX", 0.02),
    ]  # fmt: skip


def test_nothing_printed_is_nothing_measured(path):
    with pytest.raises(PareError, match=r"(?s)no timings for a\.tflite: .*Segmentation"):
        parse(MACHINE + "pare-begin\nSegmentation fault", path, SETTINGS)


def say(text, payload, tell, timeout_s):
    return talk(["sh", "-c", text], tell=tell, timeout_s=timeout_s, payload=payload)


def fake(tmp_path, code):
    """A program of that name that prints what the real one does."""
    path = tmp_path / "benchmark_model_arm64"
    path.write_text(f"#!{sys.executable}\nimport os, sys\n{code}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_the_program_is_sent_run_for_each_repeat_and_removed(path, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    code = f"""
assert os.path.getsize("model.tflite") == {path.stat().st_size}
assert "--num_threads=4" in sys.argv and "--max_secs=120.0" in sys.argv, sys.argv
print({old(1000)!r})
if "--enable_op_profiling=true" in sys.argv: print({TABLE!r})
"""
    found = from_benchmark_model(say, path, SETTINGS, fake(tmp_path, code), None)
    assert len(found["windows"]) == 2
    assert len(found["operators"]["kernels"]) == 2
    assert found["conditions"]["before"]["machine"]
    assert list(scratch.iterdir()) == []


def test_a_program_that_fails_there_is_told(path, tmp_path):
    program = fake(tmp_path, "sys.exit('cannot execute binary')")
    with pytest.raises(PareError, match="benchmark_model gave no figures"):
        from_benchmark_model(say, path, SETTINGS, program, None)


def test_what_it_cannot_run_is_refused(path, tmp_path):
    with pytest.raises(PareError, match=r"runs \.tflite files only"):
        from_benchmark_model(say, onnx_file(tmp_path / "a.onnx"), SETTINGS, path, None)
    with pytest.raises(PareError, match="no benchmark_model at"):
        from_benchmark_model(say, path, SETTINGS, tmp_path / "none", None)


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (
            "pare-maps: yes\npare-machine: aarch64\npare-cpu: vendor_id\t: AuthenticAMD\n",
            "another family",
        ),
        (MACHINE + "pare-qemu: qemu-aarch64-static\n", "emulation by qemu-aarch64-static"),
        ("pare-machine: aarch64\n", "emulation can't be ruled out"),
    ],
)
def test_emulated_time_is_refused(path, machine, why):
    found = parse(machine + f"pare-begin\n{old(1)}", path, SETTINGS)
    assert why in found["refused"]
    assert parse(printed(old(1)), path, SETTINGS)["refused"] is None


def test_a_percentile_is_pooled_only_where_each_window_supports_it(path):
    few = parse(printed(new(1, 1), new(1, 1)), path, SETTINGS)
    assert few["timing"]["p95_ms"] is None  # 120 runs a window, 130 are needed
    many = [w.replace("count=120", "count=130") for w in (new(1, 1), new(1, 1))]
    assert parse(printed(*many), path, SETTINGS)["timing"]["p95_ms"] == pytest.approx(14.5)


def test_garbage_is_a_sentence(path):
    with pytest.raises(PareError, match="what can't be read"):
        parse(printed(old(1).replace("avg=1 ", "")), path, SETTINGS)
