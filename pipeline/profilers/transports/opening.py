"""From what the user wrote behind --on to the way to a machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.core.target import Target
from pipeline.profilers.transports import Transport
from pipeline.profilers.transports.adb import Adb
from pipeline.profilers.transports.container import Container
from pipeline.profilers.transports.local import Local
from pipeline.profilers.transports.remote import Remote
from pipeline.profilers.transports.ssh import Ssh


def transport(
    on: str,
    target: Target,
    *,
    identity: Path | None = None,
    image: str | None = None,
    binary: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Transport:
    """Return the way to a machine.

    Args:
        on: ``local``, ``ssh://user@host``, ``adb:SERIAL``, ``container:PLATFORM``; ``ssh`` and
            ``adb`` alone take the address from the variable that the target names.
        target: the device that is meant.
        identity: private key for ssh.
        image: for a container.
        binary: ``benchmark_model`` for a machine without Python.
        environment: where addresses are looked up.

    Raises:
        PareError: no such way, or its address is missing or malformed.
    """
    if not target.runtimes:
        raise PareError(
            f"no engine of ours runs on {target.id}, so nothing is measured there. Its memory "
            f"and form are judged without --on."
        )
    if binary is not None and target.power.meter_command:
        raise PareError(
            "benchmark_model tells no windows that a power meter could be read in. Measure "
            "with the runtime, or without power.meter_command."
        )
    if on == "local":
        if binary is not None:
            raise PareError("--benchmark-model is for another machine, not for --on local.")
        return Local()
    way = _remote(_addressed(on, target, environment), target, identity, image)
    facts = target.transport
    if facts:
        way.python, way.folder = facts.python, facts.folder or way.folder
    way.binary = binary
    return way


def _remote(on: str, target: Target, identity: Path | None, image: str | None) -> Remote:
    facts = target.transport
    if on.startswith("ssh://"):
        known = facts.known_hosts if facts else None
        return Ssh(
            on, known_hosts=known, identity=identity, port=facts.port if facts else None
        )
    if on.startswith("adb:"):
        return Adb(on)
    if on.startswith("container:"):
        return Container(on, image=image)
    raise PareError(
        f"--on {on!r} names no machine. Write local, ssh://user@host, adb:SERIAL or "
        f"container:linux/arm64."
    )


def _addressed(on: str, target: Target, environment: Mapping[str, str]) -> str:
    """Return a full address where only the kind was given."""
    if on not in ("ssh", "adb"):
        return on
    facts = target.transport
    variable = facts and (facts.host_env if on == "ssh" else facts.serial_env)
    if not variable:
        raise PareError(
            f"{target.id} does not say where it is. Write the address: --on "
            + ("ssh://user@host." if on == "ssh" else "adb:SERIAL.")
        )
    found = environment.get(variable)
    if not found:
        raise PareError(
            f"the address of {target.id} is expected in the environment variable {variable}, "
            f"which is not set."
        )
    prefix = "ssh://" if on == "ssh" else "adb:"
    return found if found.startswith(prefix) else f"{prefix}{found}"
