import pytest

from pipeline.runtime import energy, memory


def counter(root, number, joules, around=1_000_000_000, name="package-0"):
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{around}\n")
    return folder


def test_the_packages_are_added_and_their_parts_are_not(tmp_path):
    counter(tmp_path, 0, 10)
    counter(tmp_path, 1, 20)
    counter(tmp_path, "0:0", 5, name="core")
    counter(tmp_path, 2, 100, name="psys")
    meter = energy.Rapl(tmp_path)
    counter(tmp_path, 0, 12)
    counter(tmp_path, 1, 23)
    counter(tmp_path, "0:0", 500, name="core")
    counter(tmp_path, 2, 900, name="psys")
    assert meter.joules() == pytest.approx(5)


def test_a_counter_that_began_again_is_followed(tmp_path):
    counter(tmp_path, 0, 999)
    meter = energy.Rapl(tmp_path)
    counter(tmp_path, 0, 1)
    assert meter.joules() == pytest.approx(2)


def test_without_a_counter_there_is_no_energy(tmp_path):
    assert energy.Rapl(tmp_path).joules() is None
    folder = counter(tmp_path, 0, 1)
    (folder / "energy_uj").write_text("secret")
    assert energy.Rapl(tmp_path).joules() is None


def test_energy_is_the_median_of_the_windows_less_the_rest():
    windows = [{"n": 10, "joules": j, "seconds": 1.0} for j in (1.0, 2.0, 9.0)]
    found = energy.of(windows, {"seconds": 2.0, "joules": 1.0})
    assert found["gross_mj"] == pytest.approx(200)
    assert (found["idle_w"], found["net_mj"]) == (0.5, pytest.approx(150))
    assert "net_mj" not in energy.of(windows, None)
    assert energy.of([*windows, {"n": 1, "joules": None, "seconds": 1.0}], None) is None


def test_memory_is_the_kernels_word_in_bytes(tmp_path):
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
    assert memory.resident(status) == 1024 * 1024
    assert memory.peak(status) == 2048 * 1024
    assert memory.resident(tmp_path / "none") is None


def test_memory_grows_with_what_is_held():
    before = memory.resident()
    held = bytearray(b"x" * 50_000_000)
    assert memory.resident() - before > 40_000_000
    assert memory.peak() >= memory.resident()
    assert held
