"""The user's own targets: the folder they are kept in, beside those that ship."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

HOST = "host"
"""Name of the target that describes this machine, made by ``pare targets probe``."""


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the user's targets, which need not exist.

    It is ``PARE_TARGETS``, or else ``pare/targets`` in the folder of the user's settings.

    Args:
        environ: environment variables.

    >>> str(folder({"PARE_TARGETS": "/boards"}))
    '/boards'
    >>> str(folder({"XDG_CONFIG_HOME": "/settings"}))
    '/settings/pare/targets'
    """
    settings = Path(environ.get("XDG_CONFIG_HOME") or "~/.config")
    path = Path(environ.get("PARE_TARGETS") or settings / "pare" / "targets")
    with suppress(RuntimeError):  # a home that nobody has: a plain name then
        path = path.expanduser()
    return path


def own(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Return the user's targets, by name.

    Args:
        environ: environment variables.
    """
    return {path.stem: path for path in sorted(folder(environ).glob("*.toml"))}
