"""Container engines: how an image is built, asked about, run and pushed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core.errors import PareError

ENGINES = ("docker", "podman", "buildah")
_BUILD_S, _RUN_S = 3600, 300
_TOLD = 2000  # characters of what an engine complained of


class NoEngine(PareError):
    """No container engine is installed; exit code 4 so that scripts can tell."""

    exit_code = 4


class Engine:
    """One of the programs that build images, by its name.

    Raises:
        PareError: no such engine is known.
        NoEngine: it is not installed, or none is.
    """

    def __init__(self, name: str | None = None) -> None:
        if name is not None and name not in ENGINES:
            raise PareError(f"no engine {name!r}. Known: {', '.join(ENGINES)}.")
        wanted = [name] if name else list(ENGINES)
        found = next((one for one in wanted if shutil.which(one)), None)
        if found is None:
            raise NoEngine(
                f"{' or '.join(wanted)} is not installed. Install one of them (on Debian: apt "
                f"install docker.io), or build elsewhere from the context."
            )
        self.name = found

    def build(
        self,
        context: Path,
        *,
        platform: str,
        tag: str,
        labels: Mapping[str, str],
        arguments: Mapping[str, str],
    ) -> None:
        """Build an image.

        Raises:
            PareError: the build failed; with the end of what the engine said.
        """
        self._said(self.build_command(context, platform, tag, labels, arguments), _BUILD_S)

    def build_command(
        self,
        context: Path,
        platform: str,
        tag: str,
        labels: Mapping[str, str],
        arguments: Mapping[str, str],
    ) -> list[str]:
        """Return the command that builds an image, for people too."""
        labelled = [part for k, v in labels.items() for part in ("--label", f"{k}={v}")]
        argued = [part for k, v in arguments.items() for part in ("--build-arg", f"{k}={v}")]
        form = ["--format", "docker"] if self.name != "docker" else []  # else no HEALTHCHECK
        verb = "bud" if self.name == "buildah" else "build"
        return [
            self.name, verb, *form, "--platform", platform, "--tag", tag, *labelled, *argued,
            *_secrets(), str(context),
        ]  # fmt: skip

    def facts(self, tag: str) -> dict[str, object]:
        """Return id, size in bytes on disk and number of layers of an image."""
        if self.name == "buildah":
            told = json.loads(
                self._said(["buildah", "inspect", "--type", "image", tag], _RUN_S)
            )
            return {"id": told["FromImageID"], "bytes_on_disk": None,
                    "layers": len(told["OCIv1"]["rootfs"]["diff_ids"])}  # fmt: skip
        told = json.loads(self._said([self.name, "image", "inspect", tag], _RUN_S))[0]
        layers = len(told["RootFS"]["Layers"])
        return {"id": told["Id"], "bytes_on_disk": told["Size"], "layers": layers}

    def push(self, tag: str, to: str) -> None:
        """Push an image under another name.

        Raises:
            PareError: it was refused.
        """
        self._said([self.name, "tag", tag, to], _RUN_S)
        self._said([self.name, "push", to], _BUILD_S)

    def run(
        self, options: Sequence[str], given: bytes = b"", seconds: float = _RUN_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a container and return how it ended; with buildah there is nothing to run it.

        Raises:
            PareError: it did not end in time.
        """
        try:
            return subprocess.run(
                [self.name, "run", *options], input=given, capture_output=True, check=False,
                timeout=seconds, env=_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PareError(
                f"{self.name} run did not end within {seconds:.0f} s: {' '.join(options)}"
            ) from error

    def ask(self, *arguments: str) -> str:
        """Run any other command of the engine and return what it says.

        Raises:
            PareError: it failed.
        """
        return self._said([self.name, *arguments], _RUN_S)

    def _said(self, command: Sequence[str], seconds: float) -> str:
        try:
            done = subprocess.run(
                list(command), capture_output=True, check=False, timeout=seconds,
                env=_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PareError(
                f"{' '.join(command[:2])} did not end in {seconds:.0f} s"
            ) from error
        if done.returncode:
            told = (done.stderr or done.stdout).decode(errors="replace").strip()[-_TOLD:]
            raise PareError(f"{' '.join(command[:2])} failed:\n{told}")
        return done.stdout.decode(errors="replace")


def _environment() -> dict[str, str]:
    return {**os.environ, "DOCKER_BUILDKIT": "1"}


def _secrets() -> list[str]:
    """Return pip's own settings and certificates as secrets of the build, where there are any.

    Without them a build in a network with an index of its own would look elsewhere. They are
    seen while wheels are installed, and are in no layer.
    """
    homes = (os.environ.get("PIP_CONFIG_FILE"), "/etc/pip.conf")
    settings = next((p for p in map(_file, homes) if p), None)
    named = (os.environ.get("PIP_CERT"), os.environ.get("SSL_CERT_FILE"))
    certificates = next((p for p in map(_file, named) if p), None)
    if settings and not certificates:
        certificates = _file("/etc/ssl/certs/ca-certificates.crt")
    given = {"pipconf": settings, "ca": certificates}
    return [part for key, path in given.items() if path
            for part in ("--secret", f"id={key},src={path}")]  # fmt: skip


def _file(path: str | None) -> Path | None:
    return Path(path) if path and Path(path).is_file() else None
