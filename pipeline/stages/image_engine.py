"""Container engines: how an image is built, asked about, run and pushed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from pipeline.core.errors import PareError
from pipeline.stages.build_command import build_command

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
        command = build_command(self.name, context, platform, tag, labels, arguments)
        self.ask(*command[1:], seconds=_BUILD_S)

    def facts(self, tag: str) -> dict[str, object]:
        """Return id, size in bytes on disk and number of layers of an image."""
        if self.name == "buildah":
            told = json.loads(self.ask("inspect", "--type", "image", tag))
            return {"id": told["FromImageID"], "bytes_on_disk": None,
                    "layers": len(told["OCIv1"]["rootfs"]["diff_ids"])}  # fmt: skip
        told = json.loads(self.ask("image", "inspect", tag))[0]
        layers = len(told["RootFS"]["Layers"])
        return {"id": told["Id"], "bytes_on_disk": told["Size"], "layers": layers}

    def push(self, tag: str, to: str) -> None:
        """Push an image under another name.

        Raises:
            PareError: it was refused.
        """
        self.ask("tag", tag, to)
        self.ask("push", to, seconds=_BUILD_S)

    def run(
        self, options: Sequence[str], given: bytes = b"", seconds: float = _RUN_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a container and return how it ended; with buildah there is nothing to run it.

        Raises:
            PareError: it did not end in time.
        """
        name = f"pare-{uuid4().hex[:12]}"
        try:
            return subprocess.run(
                [self.name, "run", "--name", name, *options], input=given, check=False,
                capture_output=True, timeout=seconds, env=_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            with suppress(PareError):  # only the client ended
                self.ask("rm", "--force", name)
            raise PareError(
                f"{self.name} run did not end within {seconds:.0f} s: {' '.join(options)}"
            ) from error

    def ask(self, *arguments: str, seconds: float = _RUN_S) -> str:
        """Run any other command of the engine and return what it says.

        Raises:
            PareError: it failed.
        """
        command = [self.name, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, timeout=seconds, env=_environment()
            )
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
