"""Does a file still answer what it answered where it was made? For people and HEALTHCHECK."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipeline.runtime import golden
from pipeline.runtime.classifier import Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.sessions import check_openable
from pipeline.runtime.tensors import EngineError

_LARGEST_REPLY = 1_000_000  # bytes
_OK = 200


def run(
    path: Path,
    vectors: Path | None,
    threads: int,
    url: str | None,
    wait_s: float,
    delegate: Delegate | None = None,
) -> int:
    """Print the finding as one line of JSON; return 0 where it passed, else 1.

    Docker knows no other codes for a health check, so a missing file fails with 1 as well.

    Args:
        path: the file.
        vectors: its golden vectors, by default those beside it.
        threads: of the engine.
        url: of a server that runs the file, instead of running it here.
        wait_s: longest wait for each answer of that server.
        delegate: to hand operators to, where the file is run here.
    """
    start = time.perf_counter()
    try:
        told = golden.read(vectors or golden.beside(path))
        found = at(url, told, wait_s) if url else here(path, told, threads, delegate)
    except EngineError as error:
        found = {"passed": False, "why": str(error)}
    seconds = round(time.perf_counter() - start, 3)
    line = {"file": path.name, **found, "seconds": seconds}
    sys.stdout.write(json.dumps(line) + "\n")
    return 0 if found["passed"] else 1


def here(
    path: Path, told: Mapping[str, Any], threads: int = 1, delegate: Delegate | None = None
) -> dict[str, Any]:
    """Run the file on all its golden images.

    Raises:
        EngineError: it can't be loaded or run.
    """
    check_openable(path, threads, delegate)
    if why := golden.of_another(path, told):
        return {"passed": False, "why": why}  # a damaged file may not even be loaded
    classifier = Classifier(path, threads, delegate=delegate)
    engine = classifier.engine
    by = {
        "runtime": engine.runtime,
        "runtime_version": engine.runtime_version,
        "delegate": engine.delegate,
    }
    return {**by, **golden.verify(classifier, told)}


def at(url: str, told: Mapping[str, Any], wait_s: float = 5.0) -> dict[str, Any]:
    """Ask a running server whether it is ready, and for the class of one golden image.

    The class has to be one that comes first on every machine that keeps to the tolerance.

    Args:
        url: such as ``http://127.0.0.1:8080``.
        told: the golden vectors.
        wait_s: longest wait for each answer.

    Raises:
        EngineError: the URL is none, or an image is damaged.
    """
    vector = told["vectors"][0]
    status, reply = _ask(url, "GET", "/readyz", None, wait_s)
    if status != _OK:
        return {"passed": False, "why": f"{url}/readyz: {_said(status, reply)}."}
    status, reply = _ask(url, "POST", "/predict", golden.png(vector), wait_s)
    if status != _OK:
        return {"passed": False, "why": f"{url}/predict: {_said(status, reply)}."}
    if reply.get("index") in vector["probable"]:
        return {"passed": True, "vectors": 1, "class": reply.get("class")}
    why = f"the class of golden image 0 is {reply.get('class')!r}, not {vector['class']!r}."
    return {"passed": False, "why": why}


def _ask(
    url: str, method: str, route: str, body: bytes | None, wait_s: float
) -> tuple[int, dict[str, Any]]:
    """Return the status and body of an answer; status 0 where there is none, and why."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise EngineError(f"{url} is no URL: {error}.") from error
    if parts.scheme != "http" or not host:
        raise EngineError(f"{url}: give the server as http://host:port.")
    connection = http.client.HTTPConnection(host, port, timeout=wait_s)
    try:
        headers = {"Content-Type": "image/png"} if body else {}
        connection.request(method, route, body, headers)
        reply = connection.getresponse()
        found = json.loads(reply.read(_LARGEST_REPLY))
        return reply.status, found if isinstance(found, dict) else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        return 0, {"error": {"message": f"{type(error).__name__}: {error}"}}
    finally:
        connection.close()


def _said(status: int, reply: Mapping[str, Any]) -> str:
    error = reply.get("error")
    message = error.get("message", "") if isinstance(error, dict) else ""
    return f"{status or 'no answer'} ({message})".removesuffix(" ()").replace(".)", ")")
