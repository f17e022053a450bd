"""The routes of ``serve``, as a WSGI application: nothing here knows of sockets."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.runtime.images import ImageError
from pipeline.runtime.metrics import CONTENT_TYPE, Metrics
from pipeline.runtime.pool import Busy, Closed, Late, Pool
from pipeline.runtime.refusals import Refusal, status_line
from pipeline.runtime.tensors import EngineError
from pipeline.runtime.uploads import image_of

_OK = 200
_JSON = "application/json"
_PROBES = frozenset({"/healthz", "/readyz", "/metrics", "/metadata"})
_AGAIN = {"Retry-After": "1"}

Log = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Reply:
    """An answer of the server."""

    body: bytes
    kind: str = _JSON
    status: int = _OK
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Reply:
        """Return plain data as JSON."""
        return cls(json.dumps(value).encode() + b"\n")

    @classmethod
    def refusing(cls, refusal: Refusal) -> Reply:
        """Return a refusal."""
        return cls(refusal.body(), status=refusal.status, headers=refusal.headers)


class Application:
    """What answers each request.

    Args:
        pool: of workers.
        metrics: where answers are counted.
        log: is given code, duration and bytes of each answer, and nothing of the request;
            probes that are answered well are left out.
        timeout_s: longest wait for an answer of the pool.
        largest: bytes of a body.
    """

    def __init__(
        self, pool: Pool, metrics: Metrics, log: Log, *, timeout_s: float, largest: int
    ) -> None:
        self._pool = pool
        self._metrics = metrics
        self._log = log
        self._timeout_s = timeout_s
        self._largest = largest
        self._card: dict[str, Any] = {}
        self._routes: dict[str, tuple[str, Callable[[Mapping[str, Any]], Reply]]] = {
            "/predict": ("POST", self._predict),
            "/healthz": ("GET", self._healthz),
            "/readyz": ("GET", self._readyz),
            "/metrics": ("GET", self._show_metrics),
            "/metadata": ("GET", self._metadata),
        }

    def __call__(
        self, environ: Mapping[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request, whatever happens."""
        start = time.perf_counter()
        path = str(environ.get("PATH_INFO", ""))
        route = path if path in self._routes else "other"
        reply = self._reply(route, environ)
        seconds = time.perf_counter() - start
        size = str(environ.get("CONTENT_LENGTH") or 0)
        received = int(size) if size.isdecimal() else 0
        self.count(route, reply.status, seconds, received, len(reply.body))
        headers = {
            "Content-Type": reply.kind,
            "Content-Length": str(len(reply.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **reply.headers,
        }
        start_response(status_line(reply.status), list(headers.items()))
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [reply.body]

    def count(
        self, route: str, status: int, seconds: float = 0, received: int = 0, sent: int = 0
    ) -> None:
        """Count an answer and log it."""
        self._metrics.count(route, status, seconds)
        if route in _PROBES and status == _OK:
            return
        milliseconds = round(seconds * 1e3, 3)
        line = {"code": status, "milliseconds": milliseconds, "in": received, "out": sent}
        self._log(line)

    def _reply(self, route: str, environ: Mapping[str, Any]) -> Reply:
        try:
            return self._answer(route, environ)
        except Refusal as refusal:
            return Reply.refusing(refusal)
        except Exception:  # a bug: it is told here, and the process stays
            traceback.print_exc(file=sys.stderr)
            return Reply.refusing(Refusal(500, "the server failed; its log says why."))

    def _answer(self, route: str, environ: Mapping[str, Any]) -> Reply:
        if route not in self._routes:
            raise Refusal(404, f"no such route. There are {', '.join(self._routes)}.")
        method, answer = self._routes[route]
        asked = environ.get("REQUEST_METHOD")
        if asked != method and (asked, method) != ("HEAD", "GET"):
            raise Refusal(405, f"{route} takes {method}.", {"Allow": method})
        return answer(environ)

    def _predict(self, environ: Mapping[str, Any]) -> Reply:
        content = image_of(environ, self._largest)
        try:
            answer = self._pool.classify(content, self._timeout_s)
        except ImageError as error:
            raise Refusal(422, str(error)) from error
        except EngineError as error:  # its words name a path of this machine
            sys.stderr.write(f"{error}\n")
            raise Refusal(500, "the engine failed; the server's log says why.") from error
        except Busy as error:
            raise Refusal(503, "too many images wait. Try again later.", _AGAIN) from error
        except Late as error:
            told = f"no answer within {self._timeout_s:g} s. Try again later."
            raise Refusal(503, told, _AGAIN) from error
        except Closed as error:
            raise self._not_ready() from error
        self._metrics.inferred(answer.inference_seconds)
        return Reply.of(answer.as_json())

    def _healthz(self, _environ: Mapping[str, Any]) -> Reply:
        return Reply.of({"status": "alive"})

    def _readyz(self, _environ: Mapping[str, Any]) -> Reply:
        if not self._pool.ready:
            raise self._not_ready()
        return Reply.of({"status": "ready"})

    def _show_metrics(self, _environ: Mapping[str, Any]) -> Reply:
        card = self._model() if self._pool.classifier else {}
        labels = ("file", "sha256", "runtime", "runtime_version")
        model = {key: str(card[key]) for key in labels if key in card}
        ready, queued = self._pool.ready, self._pool.queued
        text = self._metrics.text(queued=queued, ready=ready, model=model)
        return Reply(text.encode(), kind=CONTENT_TYPE)

    def _metadata(self, _environ: Mapping[str, Any]) -> Reply:
        return Reply.of(self._model())

    def _model(self) -> dict[str, Any]:
        """Return the file's card, made once: its digest reads all of the file."""
        classifier = self._pool.classifier
        if classifier is None:
            raise self._not_ready()
        if not self._card:
            self._card = classifier.card()
        return self._card

    def _not_ready(self) -> Refusal:
        state = "stopping" if self._pool.classifier else "still loading"
        return Refusal(503, f"the server is {state}. Try again later.", _AGAIN)
