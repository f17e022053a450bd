"""A container image, or the folder of a root file system, of any architecture."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pipeline.core.emulation import emulated, shown_core
from pipeline.core.errors import PareError
from pipeline.profilers.transports.remote import Remote
from pipeline.profilers.transports.talk import Said

_FORM = re.compile(r"container:(?P<platform>[a-z0-9]+/[a-z0-9]+(?:/v[0-9])?)")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_SCRATCH = "/tmp"  # noqa: S108 - of the container alone
_CORES = "/sys/devices/system/cpu"
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ENGINES = ("docker", "podman")


class Container(Remote):
    """Measures inside a container; of another architecture, only answers are compared.

    A folder is entered by ``chroot``, in a user namespace of its own where this is not root.
    Under QEMU older than 10 the engines would look for this machine's processor in ``/sys``
    and crash: a folder must not have it mounted, and in a container that part is hidden.
    LiteRT then computes without XNNPACK, whose int8 answers may be a step from the others.

    Args:
        address: ``container:PLATFORM``, such as ``container:linux/arm64``.
        image: a reference that docker or podman knows, or a folder with a root file system.

    Raises:
        PareError: the address or the image is not of that form, or no engine is installed.
    """

    def __init__(self, address: str, *, image: str | None) -> None:
        found = _FORM.fullmatch(address)
        if not found:
            raise PareError(f"{address!r} is no platform. Write container:linux/arm64.")
        if not image:
            raise PareError(
                f"{address} needs --image: the folder of a root file system, or the reference "
                f"of an image with a shell, Python and an engine."
            )
        self.name = address
        self._platform = found["platform"]
        self._image = image
        self._folder = Path(image).resolve() if Path(image).is_dir() else None
        if self._folder is None and not _IMAGE.fullmatch(image):
            raise PareError(f"{image!r} is no folder and no reference of an image.")

    def command(self, script: str) -> list[str]:
        """Return what enters the folder, or starts a container without network and rights."""
        if self._folder:
            own = [] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user"]
            inside = ["chroot", str(self._folder), "/bin/sh", "-c", script]
            return [*own, "env", f"PATH={_PATH}", *shown_core(self._platform), *inside]
        shown = [part for setting in shown_core(self._platform) for part in ("--env", setting)]
        hidden = ["--tmpfs", _CORES] if emulated(self._platform) else []
        return [
            self._engine(), "run", "--rm", "-i", "--network", "none", "--read-only",
            "--tmpfs", f"{_SCRATCH}:exec", *hidden, *shown, "--cap-drop", "ALL",
            "--security-opt", "no-new-privileges", "--platform", self._platform,
            "--entrypoint", "/bin/sh", self._image, "-c", script,
        ]  # fmt: skip

    def blame(self, said: Said) -> str | None:
        """Say what the engine or chroot itself ran into."""
        told = said.stderr.splitlines() or ["it said nothing"]
        last = next((line for line in told if line.startswith(_ENGINES)), told[-1])
        if self._folder and "Exec format error" in said.stderr:
            return (
                f"{self.name}: programs of {self._platform} don't run here ({last}). Install "
                f"qemu-user-static."
            )
        if said.code in (125, 126, 127):
            return f"{self.name}: {self._image} was not started ({last})."
        return None

    def _engine(self) -> str:
        for engine in _ENGINES:
            if shutil.which(engine):
                return engine
        raise PareError(
            f"{self.name}: neither docker nor podman is installed. Install one, or give the "
            f"folder of a root file system as --image."
        )
