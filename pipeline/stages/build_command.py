"""The command that builds an image, which a program runs and a person can copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SETTINGS = "/etc/pip.conf"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def build_command(
    engine: str,
    context: Path,
    platform: str,
    tag: str,
    labels: Mapping[str, str],
    arguments: Mapping[str, str],
) -> list[str]:
    """Return the command line with which an engine builds an image."""
    labelled = [part for k, v in labels.items() for part in ("--label", f"{k}={v}")]
    argued = [part for k, v in arguments.items() for part in ("--build-arg", f"{k}={v}")]
    form = ["--format", "docker"] if engine != "docker" else []  # else no HEALTHCHECK
    verb = "bud" if engine == "buildah" else "build"
    return [
        engine, verb, *form, "--platform", platform, "--tag", tag, *labelled, *argued,
        *_secrets(), str(context),
    ]  # fmt: skip


def _secrets() -> list[str]:
    """Return pip's own settings and certificates as secrets of the build, where there are any.

    Without them a build in a network with an index of its own would look elsewhere. They are
    seen while wheels are installed, and are in no layer.
    """
    settings = _file(os.environ.get("PIP_CONFIG_FILE")) or _file(SETTINGS)
    named = map(_file, (os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE")))
    certificates = next((path for path in named if path), None)
    if settings and not certificates:
        certificates = _file(CERTIFICATES)
    given = {"pipconf": settings, "ca": certificates}
    return [part for key, path in given.items() if path
            for part in ("--secret", f"id={key},src={path}")]  # fmt: skip


def _file(path: str | None) -> Path | None:
    return Path(path) if path and Path(path).is_file() else None
