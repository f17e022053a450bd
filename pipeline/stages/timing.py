"""Times of a run's files: this machine's, taken once, and those of the devices themselves."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.core.artifact import sha256, versions
from pipeline.core.errors import PareError
from pipeline.core.recipe import ProfileOptions
from pipeline.core.record import digest
from pipeline.core.rundir import device_profiles, read_json, write_json
from pipeline.core.target import Target
from pipeline.profilers import profile
from pipeline.profilers.measurement import refuse
from pipeline.profilers.operator_table import by_kernel_ms
from pipeline.profilers.transports.local import Local
from pipeline.profilers.transports.wire import checked
from pipeline.runtime.conditions import cpu_model
from pipeline.runtime.harness import Settings
from pipeline.stages.sources import code

TIMINGS = "timings"  # folder of a run: what this machine measured


def timed(path: Path, options: ProfileOptions, threads: int, shelf: Path) -> dict[str, Any]:
    """Time a file on this machine, or return what the same measurement found before.

    The same is: the same file, settings, processor and versions. A stage that was killed, or
    is repeated since a device measured, does not spend the minutes again.

    Args:
        path: the file.
        options: of the recipe.
        threads: of the engine.
        shelf: folder in which results are kept.

    Raises:
        PareError: this machine is emulated, or the file can't be run.
    """
    settings = Settings(
        threads=threads,
        warmup_runs=options.warmup_runs,
        warmup_s=options.warmup_s,
        runs=options.runs,
        seconds=options.seconds,
        repeats=options.repeats,
        operators=threads == options.threads[0],
    )
    program = code("profile")  # a harness that was mended measures again
    key = digest([sha256(path), asdict(settings), cpu_model(), versions(), program])
    kept = shelf / f"{key[:32]}.json"
    if kept.is_file():
        with suppress(ValueError, TypeError, PareError):  # harmed: it is measured again
            return checked(read_json(kept), sha256=sha256(path), where=str(kept))
    result = Local().measure(path, settings, lambda _event: None)
    refuse(result["refused"])
    if result["repeats"]["stable"] is not False:  # else another time may be quieter
        shelf.mkdir(exist_ok=True)
        write_json(kept, result)
    return result


def by_kernel(result: dict[str, Any]) -> dict[str, Any]:
    """Return the milliseconds of each kind of kernel, or why they are not known."""
    kernels = result["operators"]["kernels"]
    return {
        "by_kernel_ms": by_kernel_ms((one["kernel"], one["median_ms"]) for one in kernels),
        "count": dict(Counter(one["kernel"] for one in kernels).most_common()),
        "why": result["operators"]["why"],
    }


def profiles_of(run: Path, target: Target) -> dict[str, profile.Profile]:
    """Return what a target's device measured of the files of a run, by the file's digest.

    Only what counts as the target's own is returned.

    Raises:
        PareError: a profile can't be read.
    """
    found = [profile.load(path) for path in profile_paths(run, target)]
    return {one.file.sha256: one for one in found if one.counts and one.target == target.id}


def profile_paths(run: Path, target: Target) -> list[Path]:
    """Return the files that hold what a target's device measured of a run."""
    return sorted(device_profiles(run, target.id).glob("*.json"))
