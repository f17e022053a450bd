"""A machine is described by what its system tells, from a tree of files made up here."""

import os

import pytest

from pipeline.core.record import parse
from pipeline.core.target import Target
from pipeline.core.target_review import oddities
from pipeline.profilers import probe as module
from pipeline.profilers.probe import probe

ARM = """processor\t: {number}
Features\t: fp asimd aes {more}
CPU implementer\t: 0x41
CPU part\t: {part}
"""
X86 = """processor\t: {number}
vendor_id\t: GenuineIntel
model name\t: A chip
cpu MHz\t\t: 2595.124
flags\t\t: fpu sse2 avx2 avx512f
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def x86(tmp_path, monkeypatch):
    """Two processors of a clock that is told at this moment only, and three caches."""
    monkeypatch.setattr(module.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    blocks = [X86.format(number=n) for n in range(2)]
    write(tmp_path / "proc/cpuinfo", "\n".join(blocks))
    write(tmp_path / "proc/thread-self/maps", "00400000-00401000 r-xp /usr/bin/python3\n")
    write(tmp_path / "proc/meminfo", "MemTotal:       2000000 kB\nMemFree: 1 kB\n")
    caches = [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("2", "Unified", "1024K")]
    for index, cache in enumerate([*caches, ("3", "Unified", "8192K")]):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        for name, value in zip(("level", "type", "size"), cache, strict=True):
            write(folder / name, value)
    return tmp_path


@pytest.fixture
def arm(tmp_path, monkeypatch):
    """A big and a little cluster, listed little first, whose clocks are told."""
    monkeypatch.setattr(module.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr("pipeline.runtime.conditions.platform.machine", lambda: "aarch64")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2}, raising=False)
    cores = [("0xd05", "", 1800000), ("0xd0b", "asimddp asimdhp", 2400000)]
    blocks = []
    for number, (part, more, khz) in enumerate([*cores, cores[1]]):
        blocks.append(ARM.format(number=number, part=part, more=more))
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/cpufreq"
        write(folder / "cpuinfo_max_freq", str(khz))
    write(tmp_path / "proc/cpuinfo", "\n".join(blocks))
    write(tmp_path / "proc/thread-self/maps", "00400000-00401000 r-xp /usr/bin/python3\n")
    return tmp_path


def test_this_machine_is_a_target_that_goes_together():
    found = probe(seconds=0)
    target = parse(Target, found.values, "host")
    assert target.id == "host"
    assert target.memory.memcpy_mb_s is None or target.memory.memcpy_mb_s.value > 100
    assert {row.basis for row in target.figures()} <= {"measured", "assumed"}
    assert len(oddities(target)) == 1  # there are no rates yet


def test_what_was_read_says_where(x86):
    values = probe(x86, seconds=0).values
    memory = parse(Target, values, "host").memory
    assert str(memory.ram_mb) == "2048 (measured: MemTotal in /proc/meminfo)"
    assert str(memory.budget_mb) == "512 (assumed: a quarter of the RAM)"
    assert memory.cache_l1d_kb.value == 32  # that of instructions is another
    assert memory.last_cache_kb.value == memory.cache_l3_kb.value == 8192
    assert memory.memcpy_mb_s.source.startswith(
        "copyto by numpy, 64 MiB by one thread, best of "
    )
    assert memory.memset_mb_s.source.startswith(
        "fill by numpy, 64 MiB by one thread, best of "
    )


def test_a_buffer_is_four_times_the_last_cache(x86):
    write(x86 / "sys/devices/system/cpu/cpu0/cache/index3/size", "32768K")
    memory = probe(x86, seconds=0).values["memory"]
    assert "128 MiB" in memory["memcpy_mb_s"]["source"]


def test_cores_of_one_clock_are_a_cluster(x86):
    (cluster,) = probe(x86, seconds=0).values["cpu"]["clusters"]
    assert cluster["core"] == "A chip"
    assert (cluster["count"]["value"], cluster["freq_mhz"]["value"]) == (2, 2600)
    assert "at this moment" in cluster["freq_mhz"]["source"]
    assert cluster["isa"] == ["avx2", "avx512f"]


def test_a_fast_and_a_slow_cluster_are_told_apart(arm):
    values = probe(arm, seconds=0).values
    big, little = values["cpu"]["clusters"]
    assert (big["core"], big["count"]["value"], big["freq_mhz"]["value"]) == (
        "cortex-a76", 2, 2400,
    )  # fmt: skip
    assert big["isa"] == ["neon", "dotprod", "fp16"]
    assert (little["core"], little["isa"]) == ("cortex-a55", ["neon"])
    assert values["cpu"]["affinity_mask"] == "0x6"
    assert values["platform"]["docker_platform"] == "linux/arm64"
    assert values["class"] == "sbc"


def test_without_a_clock_there_is_no_cpu_table(arm):
    for path in arm.rglob("cpuinfo_max_freq"):
        path.unlink()
    found = probe(arm, seconds=0)
    assert "cpu" not in found.values
    assert found.notes[0] == "the clock of the cores is not told, so that [cpu] is left out"


def test_under_emulation_no_rate_is_measured(x86):
    write(
        x86 / "proc/thread-self/maps", "00400000-00401000 r-xp /usr/bin/qemu-x86_64-static\n"
    )
    found = probe(x86, seconds=0)
    assert "memcpy_mb_s" not in found.values["memory"]
    assert "memset_mb_s" not in found.values["memory"]
    assert found.notes == (
        "the rates of the memory are left out: user-mode emulation by qemu-x86_64-static",
    )
    assert parse(Target, found.values, "host").memory.ram_mb.value == 2048


def test_a_container_with_less_memory_is_taken_at_its_word(x86):
    write(x86 / "sys/fs/cgroup/memory.max", "512000000")
    memory = probe(x86, seconds=0).values["memory"]
    assert memory["ram_mb"]["value"] == 512
    assert memory["ram_mb"]["source"] == "memory.max of this container's cgroup"
    write(x86 / "sys/fs/cgroup/memory.max", "max")
    assert probe(x86, seconds=0).values["memory"]["ram_mb"]["value"] == 2048


def test_the_engines_found_decide_the_formats(x86, monkeypatch):
    versions = {"onnxruntime": "1.31.1", "ai-edge-litert": None, "tflite-runtime": None}
    monkeypatch.setattr(module, "_version", versions.get)
    values = probe(x86, seconds=0).values
    assert values["constraints"]["formats"] == ["onnx"]
    (engine,) = values["runtimes"]
    assert (engine["name"], engine["version"], engine["threads"]) == (
        "onnxruntime", "1.31.1", [1, 2],
    )  # fmt: skip


def test_a_machine_without_an_engine_is_told_how_to_get_one(x86, monkeypatch):
    monkeypatch.setattr(module, "_version", lambda _: None)
    found = probe(x86, seconds=0)
    assert found.values["runtimes"] == []
    assert found.notes == ("no engine is installed: pip install ai-edge-litert onnxruntime",)
    assert parse(Target, found.values, "host").constraints.formats == ("tflite",)


def test_32_bit_arm_has_no_onnxruntime(arm, monkeypatch):
    monkeypatch.setattr(module.platform, "machine", lambda: "armv7l")
    monkeypatch.setattr(module, "_version", lambda _: "2.14.0")
    values = probe(arm, seconds=0).values
    assert [engine["name"] for engine in values["runtimes"]] == ["litert"]
    assert values["platform"]["docker_platform"] == "linux/arm/v7"
    assert parse(Target, values, "host").constraints.formats == ("tflite",)
