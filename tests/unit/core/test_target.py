from pathlib import Path

import pytest

from pipeline.core import target as module
from pipeline.core.errors import PareError
from pipeline.core.target import (
    Calibration,
    Figure,
    Memory,
    RuntimeFact,
    Target,
    shipped,
    unit_of,
)

MINIMAL = """
schema = "edge-target/1"
id = "bench"
name = "A bench"
class = "sbc"
[platform]
os = "linux"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx"]
dtypes = ["fp32"]
"""


def write(folder, text):
    path = folder / "bench.toml"
    path.write_text(text)
    return path


def test_only_the_obligatory_tables_are_obligatory(tmp_path):
    target = Target.load(write(tmp_path, MINIMAL))
    assert target.cpu is None
    assert target.budgets is None
    assert target.calibration == ()
    assert target.figures() == []


def test_a_path_may_be_text(tmp_path):
    assert Target.load(str(write(tmp_path, MINIMAL))).id == "bench"


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(
        PareError, match=r"no target named 'rasberry-pi-4b'\. Did you mean 'rasp"
    ):
        Target.load("rasberry-pi-4b")


def test_a_missing_file_is_refused():
    with pytest.raises(PareError, match=r"no file at nowhere\.toml"):
        Target.load("nowhere.toml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("[memory]\nram_mbs = 1", "Did you mean 'ram_mb'"),
        ("[memory]\nram_mb = 2048", "memory.ram_mb"),
        ('[memory]\nram_mb = { value = 1, basis = "vendor" }', "memory.ram_mb.source"),
        ('[memory]\nram_mb = { value = 1, basis = "guess", source = "x" }', "'guess'"),
        ('[memory]\nram_mb = { value = 1, basis = "vendor", source = "" }', "source"),
        ('[memory]\nram_mb = { value = -1, basis = "vendor", source = "x" }', "not negative"),
        ("[budgets]\nmodel_mb = 1", "budgets.basis"),
        ("[cpu]\nclusters = []", "cpu.clusters"),
        ('[constraints.ops]\ndenied = ["X"]', "Did you mean 'deny'"),
    ],
)
def test_what_has_no_place_or_no_source_is_refused(tmp_path, extra, message):
    path = write(tmp_path, MINIMAL + extra)
    with pytest.raises(PareError, match=message) as caught:
        Target.load(path)
    assert str(path) in str(caught.value)


def test_a_dtype_that_does_not_exist_is_refused(tmp_path):
    path = write(tmp_path, MINIMAL.replace('"fp32"', '"w8a8"'))
    with pytest.raises(PareError, match="dtypes"):
        Target.load(path)


def test_figures_are_listed_with_unit_basis_and_source():
    rows = {row.key: row for row in Target.load("raspberry-pi-4b").figures()}
    copied = rows["memory.memcpy_mb_s"]
    assert (copied.value, copied.unit, copied.basis) == (2325, "MB/s", "measured")
    assert "sbc-bench" in copied.source
    fitted = rows["calibration.0.r_gmac_s"]
    assert (fitted.value, fitted.unit, fitted.basis) == (9.78, "GMAC/s", "fitted")
    assert rows["budgets.latency_p90_ms"].basis == "assumed"
    assert rows["reference_latencies.0.ms"].unit == "ms"


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("memory.ram_mb", "MB"),
        ("memory.memset_mb_s", "MB/s"),
        ("cpu.clusters.0.fp32_macs_per_cycle", "MAC/cycle"),
        ("accelerator.peak_gops.int8", "GOP/s"),
        ("cpu.clusters.0.count", ""),
        ("reference_latencies.0.ms", "ms"),
    ],
)
def test_the_unit_is_in_the_key(key, unit):
    assert unit_of(key) == unit


def test_an_installed_package_brings_its_targets(tmp_path, monkeypatch):
    (tmp_path / "_targets").mkdir()
    write(tmp_path / "_targets", MINIMAL)
    monkeypatch.setattr(module, "_PACKAGE", tmp_path)
    assert set(shipped()) == {"bench"}
    assert Target.load("bench").name == "A bench"


def test_a_checkout_finds_its_targets_beside_the_package():
    assert all(path.parent.name == "targets" for path in shipped().values())
    assert all(isinstance(path, Path) for path in shipped().values())


def test_the_default_thread_count_must_be_on_offer():
    assert RuntimeFact(name="litert", threads=(1, 4), default_threads=4).unit == "cpu"
    with pytest.raises(ValueError, match="must be one of threads"):
        RuntimeFact(name="litert", threads=(1, 4), default_threads=2)


def test_a_calibration_too_poor_for_an_interval_is_refused():
    row = {"runtime": "xnnpack", "dtype": "fp32", "r_gmac_s": 1, "b_gb_s": 1}
    row |= {"basis": "fitted", "source": "test"}
    assert Calibration(**row, loo_mape_pct=48).loo_mape_pct == 48
    with pytest.raises(ValueError, match="loo_mape_pct"):
        Calibration(**row, loo_mape_pct=49)


def test_a_figure_shows_where_it_comes_from():
    figure = Figure(value=7.2, basis="measured", source="a meter")
    assert str(figure) == "7.2 (measured: a meter)"


ARM_32 = """
[[platform.variants]]
docker_platform = "linux/arm/v7"
arch = "arm"
formats = {formats}
source = "test"
"""


@pytest.mark.parametrize("arch", ["arm", "armv7", "armv7l", "armhf"])
def test_32_bit_arm_takes_no_onnx(tmp_path, arch):
    text = MINIMAL.replace('os = "linux"', f'os = "linux"\narch = "{arch}"')
    with pytest.raises(PareError) as refused:
        Target.load(write(tmp_path, text))
    assert str(refused.value) == (
        f"{tmp_path / 'bench.toml'}: constraints.formats holds 'onnx', but onnxruntime has no "
        "wheel for 32-bit Arm. Take it out, or describe a 64-bit system in [platform]."
    )
    taken = Target.load(write(tmp_path, text.replace('"onnx"', '"tflite"')))
    assert taken.platform.lacks("onnx")
    assert not taken.platform.lacks("tflite")


def test_a_container_for_32_bit_arm_takes_no_onnx_either(tmp_path):
    text = MINIMAL.replace('os = "linux"', 'os = "linux"\ndocker_platform = "linux/arm/v7"')
    with pytest.raises(PareError, match="no wheel for 32-bit Arm"):
        Target.load(write(tmp_path, text))
    sixty_four = text.replace("linux/arm/v7", "linux/arm64")
    assert Target.load(write(tmp_path, sixty_four)).constraints.formats == ("onnx",)


def test_a_variant_of_32_bits_takes_no_onnx(tmp_path):
    path = write(tmp_path, MINIMAL + ARM_32.format(formats='["tflite", "onnx"]'))
    with pytest.raises(PareError, match="32-bit Arm: take 'onnx' out of formats"):
        Target.load(path)
    path = write(tmp_path, MINIMAL + ARM_32.format(formats='["tflite"]'))
    (variant,) = Target.load(path).platform.variants
    assert (variant.arch, variant.formats) == ("arm", ("tflite",))


@pytest.mark.parametrize("kind", ["sbc", "mobile", "smart-camera", "on-sensor", "mcu", "pc"])
def test_a_class_is_one_of_six(tmp_path, kind):
    path = write(tmp_path, MINIMAL.replace('class = "sbc"', f'class = "{kind}"'))
    assert Target.load(path).class_ == kind
    with pytest.raises(PareError, match="choose 'sbc', 'mobile'"):
        Target.load(write(tmp_path, MINIMAL.replace('class = "sbc"', 'class = "toaster"')))


def test_a_transport_says_which_python_port_and_folder(tmp_path):
    extra = '[transport]\nkind = "ssh"\nhost_env = "BENCH"\n'
    plain = Target.load(write(tmp_path, MINIMAL + extra)).transport
    assert (plain.python, plain.port, plain.folder) == ("python3", None, None)
    extra += 'python = "/opt/python"\nport = 2222\nfolder = "/mnt/scratch"\n'
    told = Target.load(write(tmp_path, MINIMAL + extra)).transport
    assert (told.python, told.port, told.folder) == ("/opt/python", 2222, "/mnt/scratch")


@pytest.mark.parametrize("port", [1, 65535])
def test_a_port_is_one(tmp_path, port):
    extra = '[transport]\nkind = "ssh"\nport = {}\n'
    assert Target.load(write(tmp_path, MINIMAL + extra.format(port))).transport.port == port
    for wrong in (0, 65536):
        with pytest.raises(PareError, match=f"transport.port = {wrong}"):
            Target.load(write(tmp_path, MINIMAL + extra.format(wrong)))


def test_a_meter_is_a_list_of_arguments(tmp_path):
    extra = '[power]\nmeter_command = ["meter", "--watts"]\n'
    power = Target.load(write(tmp_path, MINIMAL + extra)).power
    assert power.meter_command == ("meter", "--watts")
    with pytest.raises(PareError, match=r"power\.meter_command = 'meter': a list is wanted"):
        Target.load(write(tmp_path, MINIMAL + '[power]\nmeter_command = "meter"\n'))


def test_the_last_cache_is_the_largest_that_is_known():
    second, third = (Figure(value=kb, basis="vendor", source="a test") for kb in (1, 2))
    assert Memory().last_cache_kb is None
    assert Memory(cache_l2_kb=second).last_cache_kb == second
    assert Memory(cache_l2_kb=second, cache_l3_kb=third).last_cache_kb == third


def test_a_table_of_operators_has_a_source(tmp_path):
    unit = '[accelerator]\nname = "U"\nkind = "npu"\n[accelerator.ops]\nnames = ["ADD"]\n'
    with pytest.raises(PareError, match=r"'accelerator\.ops\.source' is missing"):
        Target.load(write(tmp_path, MINIMAL + unit))
    unit += 'basis = "vendor"\nsource = "a page"\n'
    assert Target.load(write(tmp_path, MINIMAL + unit)).accelerator.ops.names == ("ADD",)
