"""One file behind HTTP: POST /predict, GET /healthz, /readyz, /metrics and /metadata."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.runtime.classifier import LARGEST, Classifier
from pipeline.runtime.delegates import Delegate
from pipeline.runtime.metrics import Metrics
from pipeline.runtime.pool import Pool
from pipeline.runtime.predicting import tell
from pipeline.runtime.sessions import check_openable
from pipeline.runtime.stopping import asked_to_stop
from pipeline.runtime.tensors import EngineError
from pipeline.runtime.web import Application

if TYPE_CHECKING:
    import threading

    from pipeline.runtime.http_server import HttpServer

_LAST_PORT = 65_535
_TICK_S = 0.2  # how late a signal may be seen
_HELD = 8  # bodies of the largest size in memory, or many smaller ones, as cameras send them
_SPARE = 4  # threads that refuse and answer probes while all others wait for an image


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        host: address to listen on; 0.0.0.0 for every network, as a container needs.
        port: 0 for a free one, which the first line of the output names.
        threads: of each engine.
        workers: engines, each of which takes the memory of one.
        waiting: images that may wait beside those that are worked on.
        timeout_s: longest wait for an answer.
        request_s: seconds in which a request has to be whole.
        largest: bytes of a body.
        most_pixels: of an image; 16 million decoded in colour are 48 MB a worker.
        connections: open at a time.
        grace_s: longest wait, once asked to stop, for what is begun.
        quiet: no line for each request.
        delegate: to hand operators to; each worker loads its own.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    threads: int = 1
    workers: int = 1
    waiting: int = 16
    timeout_s: float = 10.0
    request_s: float = 10.0
    largest: int = LARGEST
    most_pixels: int = 16_000_000
    connections: int = 128
    grace_s: float = 10.0
    quiet: bool = False
    delegate: Delegate | None = None


def run(path: Path, options: Options) -> int:
    """Serve until asked to stop, then finish what waits; return 0.

    The server answers probes while the file is loaded; ``/readyz`` says when images are taken.
    Two lines on the output tell when it listens and when it is ready.

    Raises:
        EngineError: the file can't be loaded, the address is taken, a limit makes no sense,
            or the server's library is missing.
    """
    check_openable(path, options.threads, options.delegate)
    _check(options)
    http_server = _library()
    start = time.perf_counter()
    pool = Pool(
        lambda: Classifier(path, options.threads, options.most_pixels, options.delegate),
        options.workers,
        options.waiting,
    )
    application = Application(
        pool,
        Metrics(),
        (lambda _line: None) if options.quiet else _log,
        timeout_s=options.timeout_s,
        largest=options.largest,
    )
    with asked_to_stop() as stop:
        server = _server(http_server, application, options)
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"http://{host}:{server.effective_port}"
        tell({"event": "listening", "url": url})
        pool.start()
        try:
            _until_ready(server, pool, stop)
            if pool.ready:
                tell({"event": "ready", "seconds": round(time.perf_counter() - start, 3)})
            while not stop.is_set():
                server.tick(_TICK_S)
            finished = _finish(server, pool, options.grace_s)
        finally:
            server.shut_down()
    if not finished:
        os._exit(0)  # an engine at work may abort a process that ends around it
    return 0


def _until_ready(server: HttpServer, pool: Pool, stop: threading.Event) -> None:
    while not pool.ready and not stop.is_set():
        server.tick(_TICK_S / 10)
        if pool.problem is not None:
            raise pool.problem


def _finish(server: HttpServer, pool: Pool, grace_s: float) -> bool:
    """Answer what was asked already; every new image is refused meanwhile.

    Returns:
        Whether all of it was done in time.
    """
    end = time.monotonic() + grace_s
    pool.close()
    server.stop_listening()
    while not server.close_idle() and time.monotonic() < end:
        server.tick(_TICK_S / 10)
    finished = pool.stop(max(end - time.monotonic(), 0.1))
    server.tick(0)
    return finished


def _server(http_server: ModuleType, application: Application, options: Options) -> HttpServer:
    def refused(status: int, received: int, sent: int) -> None:
        application.count("other", status, 0, received, sent)

    limits = http_server.Limits(
        largest=options.largest,
        held=_HELD * options.largest,
        connections=options.connections,
        request_s=options.request_s,
        idle_s=options.request_s,
    )
    listening = http_server.listen(options.host, options.port)
    threads = options.workers + options.waiting + _SPARE
    server: HttpServer = http_server.HttpServer(
        application, listening, limits, threads, refused
    )
    return server


def _library() -> ModuleType:
    try:
        import multipart  # noqa: F401 - asked for here, not at the first form
        import waitress  # noqa: F401

        from pipeline.runtime import http_server
    except ModuleNotFoundError as error:
        raise EngineError(
            f"serve needs {error.name}, which is not installed. Run: pip install {error.name}"
        ) from error
    return http_server


def _check(options: Options) -> None:
    """Refuse limits that make no sense.

    Raises:
        EngineError: with the name of the option.
    """
    at_least = {
        "port": 0,
        "workers": 1,
        "waiting": 1,
        "largest": 1,
        "most_pixels": 1,
        "connections": 8,
        "timeout_s": 0.001,
        "request_s": 0.001,
        "grace_s": 0,
    }
    for name, least in at_least.items():
        value = getattr(options, name)
        if not value >= least:
            raise EngineError(f"{name} = {value}: at least {least} is needed.")
    if options.largest > LARGEST:
        raise EngineError(f"largest = {options.largest}: at most {LARGEST} bytes are decoded.")
    if options.port > _LAST_PORT:  # the system would take it as another one
        raise EngineError(f"port = {options.port}: at most {_LAST_PORT} is one.")


def _log(line: Mapping[str, Any]) -> None:
    with suppress(OSError, ValueError):  # nobody reads: no reason to stop
        sys.stderr.write(json.dumps({"time": round(time.time(), 3), **line}) + "\n")
        sys.stderr.flush()
