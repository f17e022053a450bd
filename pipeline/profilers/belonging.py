"""Whether the machine that measured is the device that was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.target import Target
from pipeline.profilers.processors import FAMILIES, PARTS


def stranger(conditions: Mapping[str, Any], target: Target) -> str | None:
    """Say why a machine can't be the target's device; ``None`` where nothing speaks against.

    Compared are the family of the processor and, on Arm, the kinds of its cores. A machine
    that passes may still be another of the same kind: the user's word counts there.

    Args:
        conditions: as :func:`pipeline.runtime.conditions.conditions` returns them.
        target: the device that was meant.
    """
    unit = target.accelerator
    if unit and unit.on_fail == "reject":
        return f"it was timed on the CPU, and files of {target.id} are for its {unit.name}"
    machine = str(conditions.get("machine") or "")
    family = FAMILIES.get(machine.lower(), machine)
    wanted = target.platform.arch
    if wanted and family and not _runs(family, wanted):
        return f"it is {family} ({conditions.get('cpu') or machine}), {target.id} is {wanted}"
    known = {PARTS[part] for part in conditions.get("cpu_parts") or () if part in PARTS}
    cores = {cluster.core for cluster in target.cpu.clusters} if target.cpu else set()
    if known and cores and not known & cores:
        ours, theirs = ", ".join(sorted(known)), ", ".join(sorted(cores))
        return f"its cores are {ours}, not {theirs}"
    return None


def _runs(family: str, wanted: str) -> bool:
    """Tell whether a system of one family may run on a device of another: 32 bits on 64."""
    return family == FAMILIES.get(wanted, wanted) or (family, wanted) == ("arm", "arm64")
