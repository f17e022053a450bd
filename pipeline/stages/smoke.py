"""Does an image do its work where it may do nothing else? It is run, and asked."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.core.emulation import emulated, shown_core
from pipeline.core.errors import PareError
from pipeline.stages.image_context import PORT
from pipeline.stages.image_engine import Engine

_READY_S = 60.0
_RIGHTS = (
    "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",  # noqa: S108 - of the container
    "--security-opt", "no-new-privileges", "--pids-limit", "64",
)  # fmt: skip


def smoke(
    engine: Engine,
    tag: str,
    golden: Mapping[str, Any],
    *,
    platform: str,
    memory_mb: int,
    cpus: float,
) -> dict[str, Any]:
    """Run an image's self-test, ask it about a real image, and serve it over loopback.

    It runs as it will on the device: read-only, without rights, under the device's memory and
    cores; the first two without a network.

    Args:
        engine: that runs it.
        tag: of the image.
        golden: vectors of the file in it.
        platform: of the image.
        memory_mb: granted, in MB of 10^6 bytes.
        cpus: granted, as far as this machine has so many.

    Raises:
        PareError: it fails one of these; nothing of it is left running.
    """
    cpus = min(cpus, float(os.cpu_count() or 1))  # engines refuse more than there are
    core = [part for setting in shown_core(platform) for part in ("--env", setting)]
    under = [
        "--rm", "--init", "--platform", platform, *_RIGHTS, *core,
        "--memory", f"{memory_mb}m", "--cpus", f"{cpus:g}",
    ]  # fmt: skip
    vector = golden["vectors"][0]
    image = base64.b64decode(vector["png"], validate=True)
    alone = [*under, "--network", "none"]
    tested = _answer(_ended_well(engine, [*alone, tag, "selftest"], "its self-test"))
    told = _ended_well(engine, ["-i", *alone, tag, "predict", "-"], "predict", image)
    _agrees(_answer(told), vector)
    ready_s = _served(engine, under, tag, image, vector)
    return {
        "selftest": tested,
        "predict": "the golden class",
        "serve": "the golden class over loopback",
        "emulated": emulated(platform),
        "ready_s": None if emulated(platform) else round(ready_s, 3),  # of no device
        "memory_mb": memory_mb,
        "cpus": cpus,
    }


def _ended_well(engine: Engine, options: Sequence[str], what: str, given: bytes = b"") -> str:
    done = engine.run(options, given)
    if done.returncode:
        told = (done.stderr or done.stdout).decode(errors="replace").strip()[-1000:]
        raise PareError(
            f"the image was built, and {what} failed in it (exit code {done.returncode}): "
            f"{told or 'it said nothing'}"
        )
    return done.stdout.decode(errors="replace")


def _agrees(answer: Mapping[str, Any], vector: Mapping[str, Any]) -> None:
    if answer.get("class") != vector["class"]:
        raise PareError(
            f"the image calls a golden image {answer.get('class')!r}, which is "
            f"{vector['class']!r} where the file was made. Don't ship it."
        )


def _served(
    engine: Engine,
    under: Sequence[str],
    tag: str,
    image: bytes,
    vector: Mapping[str, Any],
) -> float:
    """Start the server, ask it, stop it; return the seconds until it was ready."""
    begun = time.monotonic()
    started = _ended_well(
        engine, ["--detach", *under, "--publish", f"127.0.0.1::{PORT}", tag], "its start"
    )
    container = started.split()[-1]
    try:
        address = engine.ask("port", container, str(PORT)).split()[0]
        url = f"http://127.0.0.1:{address.rpartition(':')[2]}"
        _wait(f"{url}/readyz")
        ready_s = time.monotonic() - begun
        _ask(f"{url}/healthz")
        _agrees(_ask(f"{url}/predict", image), vector)
    finally:
        with suppress(PareError):  # gone already: why is told by what comes before
            engine.ask("stop", container)
    return ready_s


def _wait(url: str) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        try:
            _ask(url)
        except PareError:
            time.sleep(0.05)
        else:
            return
    raise PareError(f"the image's server was not ready within {_READY_S:.0f} s.")


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    request = urllib.request.Request(url, data=body)  # noqa: S310 - http to ourselves
    if body is not None:
        request.add_header("Content-Type", "image/png")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return _answer(answer.read())
    except urllib.error.HTTPError as error:
        told = error.read().decode(errors="replace")[:500]
        raise PareError(
            f"the image's server answered {error.code} to {url}: {told}"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise PareError(f"the image's server does not answer at {url}: {error}") from error


def _answer(told: str | bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(told))
    except (ValueError, TypeError) as error:
        raise PareError(
            f"the image answers {told[:500]!r}, which is no JSON object."
        ) from error
