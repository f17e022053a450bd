"""A phone or a camera by Android's adb."""

from __future__ import annotations

import re
import shlex

from pipeline.core.errors import PareError
from pipeline.profilers.transports.remote import Remote
from pipeline.profilers.transports.talk import Said

_SERIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]*")
SCRATCH = "/data/local/tmp"  # where a program may be run without being installed


class Adb(Remote):
    """A device that adb lists, without root.

    Args:
        address: ``adb:SERIAL``, as ``adb devices`` prints it.

    Raises:
        PareError: the serial has characters that no serial has.
    """

    def __init__(self, address: str) -> None:
        serial = address.removeprefix("adb:")
        if not address.startswith("adb:") or not _SERIAL.fullmatch(serial):
            raise PareError(
                f"{address!r} is no device. Write adb:SERIAL, as `adb devices` has it."
            )
        self.name = address
        self.folder = SCRATCH
        self._serial = serial

    def command(self, script: str) -> list[str]:
        """Return adb with the script as its one operand, without a terminal."""
        return ["adb", "-s", self._serial, "shell", "-T", f"sh -c {shlex.quote(script)}"]

    def blame(self, said: Said) -> str | None:
        """Say what adb itself ran into; it has no exit code of its own."""
        told = said.stderr
        last = told.splitlines()[-1] if told else "it said nothing"
        if "not found" in told and self._serial in told:
            return (
                f"{self.name}: adb knows no such device. `adb devices` lists those it knows."
            )
        if "unauthorized" in told:
            return f"{self.name}: the device has not allowed this computer. Allow it there."
        if "offline" in told or "no devices" in told:
            return f"{self.name}: the device does not answer ({last}). Connect it again."
        return None
