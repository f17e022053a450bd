import platform

import pytest

from pipeline.runtime import conditions as module
from pipeline.runtime.conditions import conditions, cpu_model, emulation

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Some CPU\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\n\nModel\t\t: Raspberry Pi 4 Model B\n"
PLAIN_MAPS = "00400000-005b3000 r--p 00000000 fe:00 21 /bin/python3.11\n"
# As user-mode QEMU 7.2 leaves it: the guest's file and the emulator's own, side by side.
QEMU_MAPS = PLAIN_MAPS + "7f00-7f01 r-xp 00000000 fe:00 99 /usr/bin/qemu-aarch64-static\n"


def machine(tmp_path, cpuinfo=X86, maps=PLAIN_MAPS, files=()):
    (tmp_path / "proc/thread-self").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    (tmp_path / "proc/thread-self/maps").write_text(maps)
    for name, text in dict(files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [(X86, "x86_64"), (X86, "AMD64"), (ARM, "aarch64"), (ARM, "armv7l")],
)
def test_a_program_on_its_own_processor_is_not_emulated(tmp_path, cpuinfo, name):
    assert emulation(machine(tmp_path, cpuinfo), machine=name) is None


def test_user_mode_emulation_shows_in_the_mapped_files(tmp_path):
    root = machine(tmp_path, ARM, QEMU_MAPS)
    found = emulation(root, machine="aarch64")
    assert found == "user-mode emulation by qemu-aarch64-static"


@pytest.mark.parametrize(("cpuinfo", "name"), [(X86, "aarch64"), (ARM, "x86_64")])
def test_a_foreign_processor_gives_emulation_away(tmp_path, cpuinfo, name):
    found = emulation(machine(tmp_path, cpuinfo), machine=name)
    assert found.startswith(f"a program for {name} on a processor with")


def test_a_translated_processor_is_emulation_but_a_virtual_machine_is_not(tmp_path):
    text = X86.replace("Some CPU", "QEMU Virtual CPU version 2.5+")
    assert "translator" in emulation(machine(tmp_path / "a", text), machine="x86_64")
    text = X86 + "flags\t: fpu hypervisor\n"
    assert emulation(machine(tmp_path / "b", text), machine="x86_64") is None


def test_without_proc_on_linux_nothing_is_ruled_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    assert "unknown" in emulation(tmp_path)
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert emulation(tmp_path) is None


def test_a_directory_called_qemu_is_no_emulator(tmp_path):
    maps = "00400000-005b3000 r--p 00000000 fe:00 21 /opt/qemu-tests/python3.11\n"
    assert emulation(machine(tmp_path, X86, maps), machine="x86_64") is None


def test_what_the_machine_tells_is_recorded_in_units(tmp_path):
    scaling = "sys/devices/system/cpu/cpu0/cpufreq"
    files = {
        f"{scaling}/scaling_governor": "ondemand\n",
        f"{scaling}/scaling_cur_freq": "1800000\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
    }
    found = conditions(machine(tmp_path, files=files))
    assert found["cpu"] == "Some CPU"
    assert found["governor"] == "ondemand"
    assert found["frequency_mhz"] == pytest.approx(1800)
    assert found["temperature_c"] == pytest.approx(48.312)


def test_what_the_machine_does_not_tell_is_missing(tmp_path):
    found = conditions(machine(tmp_path, files={"sys/class/thermal/thermal_zone0/temp": "x"}))
    assert found["governor"] is None
    assert found["frequency_mhz"] is None
    assert found["temperature_c"] is None


def test_a_board_without_a_processor_name_gives_its_own(tmp_path):
    assert cpu_model(machine(tmp_path, ARM)) == "Raspberry Pi 4 Model B"


def test_this_machine_is_described():
    found = conditions()
    assert found["machine"] == platform.machine()
    assert found["python"] == platform.python_version()
    assert found["cores"] >= found["usable_cores"] >= 1


def test_throttling_is_told_in_words(tmp_path):
    fake = tmp_path / "vcgencmd"
    fake.write_text("#!/bin/sh\necho throttled=0x50005\n")
    fake.chmod(0o755)
    found = module.throttled([str(fake), "get_throttled"])
    assert found == {
        "flags": 0x50005,
        "now": ["under-voltage", "throttled"],
        "since_boot": ["under-voltage", "throttled"],
    }
    assert module.throttled([str(tmp_path / "none")]) is None
    fake.write_text("#!/bin/sh\necho what\n")
    assert module.throttled([str(fake)]) is None


def test_limits_of_a_container_are_told(tmp_path):
    root = machine(
        tmp_path, files={
            "sys/fs/cgroup/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/memory.max": "536870912\n",
        },
    )  # fmt: skip
    assert conditions(root)["limits"] == {"cores": 1.5, "memory_mb": pytest.approx(536.870912)}


def test_no_limits_are_no_numbers(tmp_path):
    root = machine(
        tmp_path, files={
            "sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )  # fmt: skip
    assert conditions(root)["limits"] == {}


def test_the_hottest_zone_the_cores_and_the_battery_are_told(tmp_path):
    root = machine(
        tmp_path, ARM + "CPU part\t: 0xd08\nCPU part\t: 0xd08\n", files={
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/temp": "66500\n",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1500000\n",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "600000\n",
            "sys/class/power_supply/battery/capacity": "80\n",
            "sys/class/power_supply/battery/status": "Discharging\n",
            "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 5 kB\nMemAvailable: 500 kB\n",
        },
    )  # fmt: skip
    found = conditions(root)
    assert found["temperature_c"] == 66.5
    assert found["frequencies_mhz"] == [600, 1500]
    assert found["cpu_parts"] == ["0xd08"]
    assert found["battery"] == {"charge_pct": 80, "state": "Discharging"}
    assert found["memory_mb"] == {"total": 1.024, "available": 0.512}


def test_a_made_up_cpuinfo_without_mapped_files_rules_nothing_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sys, "platform", "linux")
    root = machine(tmp_path, ARM)
    assert emulation(root, machine="aarch64") is None
    (root / "proc/thread-self/maps").unlink()
    assert "unknown: /proc/thread-self" in emulation(root, machine="aarch64")
