"""What is odd in a target file that is valid, and what can be said of a file for it."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.core.target import Dtype, Format, Target

_CALIBRATED: dict[Format, str] = {"tflite": "xnnpack", "onnx": "onnxruntime"}
_NO_ENGINE = ("mcu", "on-sensor")  # a vendor's tools make what they run
_SLOWEST_MHZ = 10  # below it somebody wrote GHz
_SLOWEST_MB_S = 10  # and GB/s


def oddities(target: Target) -> tuple[str, ...]:
    """Return what does not go together, a sentence each; none of it makes the file invalid."""
    return (
        *_processor(target),
        *_memory(target),
        *_units(target),
        *_runtimes(target),
        *_measuring(target),
    )


def abilities(target: Target) -> tuple[str, ...]:
    """Return a line for each kind of figure: what is measured, predicted, bounded, unknown."""
    pairs = [(f, d) for f in target.constraints.formats for d in target.constraints.dtypes]
    known = [pair for pair in pairs if is_calibrated(target, *pair)]
    others = [pair for pair in pairs if pair not in known]
    measured = f"latency, through {target.transport.kind}" if target.transport else ""
    bounded = _pairs(others) or "nothing else" if _has_peak(target) else ""
    return (
        f"measured:  {measured or 'nothing: no [transport]'}",
        f"predicted: {_pairs(known) or 'no latency: no [[calibration]]'}",
        f"bound:     {bounded or 'no latency: no peak of the cores'}",
        f"planned:   {_planned(target)}",
        f"unknown:   {', '.join(_unknown(target)) or 'nothing that is asked for'}",
    )


def is_calibrated(target: Target, format: Format, dtype: Dtype) -> bool:  # noqa: A002
    """Tell whether latency is predicted for a format and dtype, at the default threads."""
    runtime = target.runtime_for(format)
    threads = (None, runtime.default_threads if runtime else None)
    return any(
        (row.runtime, row.dtype) == (_CALIBRATED[format], dtype) and row.threads in threads
        for row in target.calibration
    )


def _pairs(pairs: list[tuple[Format, Dtype]]) -> str:
    return ", ".join(f"{format_} {dtype}" for format_, dtype in pairs)


def _has_peak(target: Target) -> bool:
    clusters = target.cpu.clusters if target.cpu else ()
    return bool(clusters) and all(
        cluster.fp32_macs_per_cycle or cluster.int8_macs_per_cycle for cluster in clusters
    )


def _planned(target: Target) -> str:
    found = ["peak RAM", "file size"]
    if target.memory.flash_mb:
        found.append("flash")
    if target.accelerator and target.accelerator.ops:
        found.append(f"coverage of {target.accelerator.name}")
    return ", ".join(found)


def _unknown(target: Target) -> Iterator[str]:
    """Yield the limits for which there is nothing to hold a file against."""
    if target.budgets is None:
        yield "budgets (no [budgets]: only the form of a file is checked)"
    if target.power.load_w is None and target.power.meter_command is None:
        yield "energy (no power.load_w, no power.meter_command)"
    unit = target.accelerator
    if unit and unit.min_coverage_pct and not unit.ops:
        yield f"coverage of {unit.name} (no [accelerator.ops])"


def _processor(target: Target) -> Iterator[str]:
    if target.cpu is None:
        return
    cores = sum(int(cluster.count.value) for cluster in target.cpu.clusters)
    mask = int(target.cpu.affinity_mask, 16) if target.cpu.affinity_mask else None
    if mask is not None and (mask == 0 or mask.bit_length() > cores):
        yield f"cpu.affinity_mask = {hex(mask)} names other cores than the {cores} there are"
    usable = mask.bit_count() if mask else cores
    for runtime in target.runtimes:
        if runtime.default_threads > usable:
            yield (
                f"{runtime.name} runs {runtime.default_threads} threads by default on "
                f"{usable} cores"
            )
        elif max(runtime.threads) > cores:
            yield f"{runtime.name} offers {max(runtime.threads)} threads on {cores} cores"


def _memory(target: Target) -> Iterator[str]:
    memory, budgets = target.memory, target.budgets
    ram = memory.ram_mb.value if memory.ram_mb else None
    grants = {
        "memory.budget_mb": memory.budget_mb.value if memory.budget_mb else None,
        "budgets.peak_ram_mb": budgets.peak_ram_mb if budgets else None,
    }
    for key, granted in grants.items():
        if ram is not None and granted is not None and granted > ram:
            yield f"{key} = {granted:g} is more than memory.ram_mb = {ram:g}"
    room = target.storage.model_max_mb
    if room and budgets and budgets.model_mb and budgets.model_mb > room.value:
        yield (
            f"budgets.model_mb = {budgets.model_mb:g} is more than storage.model_max_mb = "
            f"{room.value:g}"
        )


def _units(target: Target) -> Iterator[str]:
    """Yield figures that look as if they were in another unit than their key says."""
    for row in target.figures():
        if row.key.endswith("freq_mhz") and row.value < _SLOWEST_MHZ:
            yield f"{row.key} = {row.value:g} is in MHz; is it meant in GHz?"
        if row.unit == "MB/s" and row.value < _SLOWEST_MB_S:
            yield f"{row.key} = {row.value:g} is in MB/s; is it meant in GB/s?"


def _runtimes(target: Target) -> Iterator[str]:
    constraints = target.constraints
    for format_ in constraints.formats:
        if target.class_ not in _NO_ENGINE and not target.runtime_for(format_):
            yield f"constraints.formats holds {format_!r}, which no [[runtimes]] runs"
    if not target.calibration:
        yield "there is no [[calibration]]: latency is at best bounded, never predicted"
    formats = {runtime: format_ for format_, runtime in _CALIBRATED.items()}
    for row in target.calibration:
        runtime = target.runtime_for(formats[row.runtime])
        if runtime is None or row.dtype not in constraints.dtypes:
            yield f"the calibration of {row.runtime} {row.dtype} is for no file that is taken"
        elif row.threads is not None and row.threads not in runtime.threads:
            yield (
                f"the calibration of {row.runtime} {row.dtype} is for {row.threads} threads, "
                f"{runtime.name} offers {', '.join(map(str, runtime.threads))}"
            )
    both = [op for op in constraints.ops.allow or () if op in constraints.ops.deny]
    if both:
        yield f"constraints.ops both allows and denies {', '.join(both)}"
    unit = target.accelerator
    if unit and unit.min_coverage_pct and not unit.ops:
        yield f"coverage of {unit.name} is asked for, but [accelerator.ops] is missing"


def _measuring(target: Target) -> Iterator[str]:
    if target.profile.max_s < target.profile.min_s:
        yield (
            f"profile.max_s = {target.profile.max_s:g} is less than profile.min_s = "
            f"{target.profile.min_s:g}"
        )
    transport = target.transport
    needed = {"ssh": "host_env", "adb": "serial_env"}
    if transport and (key := needed.get(transport.kind)) and not getattr(transport, key):
        yield f"transport.kind = {transport.kind!r} finds its device by {key}: it is missing"
