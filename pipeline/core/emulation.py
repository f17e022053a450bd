"""Which platforms this machine has to emulate, and what they need for it."""

from __future__ import annotations

import os
import platform

#: What a machine runs itself; the rest is emulated.
_OWN = {"x86_64": {"linux/amd64"}, "aarch64": {"linux/arm64", "linux/arm", "linux/arm/v7"}}
#: QEMU's own default shows every extension there is, with some of which LiteRT's integer
#: kernels give wrong answers under it (SME); a core that exists is computed right.
_CORES = {"linux/arm64": "cortex-a72", "linux/arm": "cortex-a15", "linux/arm/v7": "cortex-a15"}


def emulated(image: str) -> bool:
    """Say whether an image of a platform needs an emulator here.

    >>> emulated("linux/s390x")
    True
    """
    return image not in _OWN.get(platform.machine(), set())


def shown_core(image: str) -> list[str]:
    """Return the setting of the core that QEMU shows, as ``NAME=VALUE``; none without QEMU.

    What the user set for all programs goes first.
    """
    core = os.environ.get("QEMU_CPU") or _CORES.get(image)
    return [f"QEMU_CPU={core}"] if core and emulated(image) else []
