"""Which images this machine has to emulate, and what they need for it."""

from __future__ import annotations

import platform

#: What a machine runs itself; the rest is emulated.
_OWN = {"x86_64": {"linux/amd64"}, "aarch64": {"linux/arm64", "linux/arm/v7"}}
#: QEMU's own default core has extensions that some of its versions compute wrongly.
_CORES = {"linux/arm64": "cortex-a72", "linux/arm/v7": "cortex-a15"}


def emulated(image: str) -> bool:
    """Say whether an image of a platform needs an emulator here.

    >>> emulated("linux/s390x")
    True
    """
    return image not in _OWN.get(platform.machine(), set())


def emulator(image: str) -> list[str]:
    """Return the options of a container that is emulated; none where it is not."""
    if not emulated(image):
        return []
    core = ["--env", f"QEMU_CPU={_CORES[image]}"] if image in _CORES else []
    # The engines crash on the processor of this machine that /sys shows.
    return ["--tmpfs", "/sys/devices/system/cpu", *core]
