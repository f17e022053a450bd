"""What processors are called: by the system, and by the number of an Arm core's part."""

from __future__ import annotations

FAMILIES = {
    "x86_64": "amd64", "amd64": "amd64", "i686": "386",
    "aarch64": "arm64", "arm64": "arm64", "armv8l": "arm", "armv7l": "arm", "armv6l": "arm",
    "riscv64": "riscv64",
}  # fmt: skip

# Arm's part numbers, as Linux lists them in arch/arm64/include/asm/cputype.h.
PARTS = {
    "0xd03": "cortex-a53", "0xd05": "cortex-a55", "0xd07": "cortex-a57",
    "0xd08": "cortex-a72", "0xd09": "cortex-a73", "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76", "0xd0c": "neoverse-n1", "0xd0d": "cortex-a77",
    "0xd41": "cortex-a78", "0xd44": "cortex-x1", "0xd46": "cortex-a510",
    "0xd47": "cortex-a710", "0xd48": "cortex-x2", "0xd4d": "cortex-a715",
    "0xd4e": "cortex-x3",
}  # fmt: skip
