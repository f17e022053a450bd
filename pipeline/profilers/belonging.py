"""Whether the machine that measured is the device that was meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.core.target import Target

_FAMILIES = {
    "x86_64": "amd64", "amd64": "amd64", "i686": "386",
    "aarch64": "arm64", "arm64": "arm64", "armv8l": "arm", "armv7l": "arm", "armv6l": "arm",
    "riscv64": "riscv64",
}  # fmt: skip

# Arm's part numbers, as Linux lists them in arch/arm64/include/asm/cputype.h.
_PARTS = {
    "0xd03": "cortex-a53", "0xd05": "cortex-a55", "0xd07": "cortex-a57",
    "0xd08": "cortex-a72", "0xd09": "cortex-a73", "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76", "0xd0c": "neoverse-n1", "0xd0d": "cortex-a77",
    "0xd41": "cortex-a78", "0xd44": "cortex-x1", "0xd46": "cortex-a510",
    "0xd47": "cortex-a710", "0xd48": "cortex-x2", "0xd4d": "cortex-a715",
    "0xd4e": "cortex-x3",
}  # fmt: skip


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
    family = _FAMILIES.get(machine.lower(), machine)
    wanted = target.platform.arch
    if wanted and family and not _runs(family, wanted):
        return f"it is {family} ({conditions.get('cpu') or machine}), {target.id} is {wanted}"
    known = {_PARTS[part] for part in conditions.get("cpu_parts") or () if part in _PARTS}
    cores = {cluster.core for cluster in target.cpu.clusters} if target.cpu else set()
    if known and cores and not known & cores:
        ours, theirs = ", ".join(sorted(known)), ", ".join(sorted(cores))
        return f"its cores are {ours}, not {theirs}"
    return None


def _runs(family: str, wanted: str) -> bool:
    """Tell whether a system of one family may run on a device of another: 32 bits on 64."""
    return family == _FAMILIES.get(wanted, wanted) or (family, wanted) == ("arm", "arm64")
