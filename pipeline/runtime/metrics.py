"""What a server counts, as the text that Prometheus reads (format 0.0.4)."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from pipeline.runtime import memory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Histogram:
    """Seconds, counted by upper bounds; it never grows."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def lines(self, name: str) -> list[str]:
        """Return what Prometheus reads of a histogram, each bucket with those below it."""
        found, total = [], 0
        for bound, count in zip([*BOUNDS, "+Inf"], self._counts):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self._sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """Requests, durations and the state of a server; safe in any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._latency = Histogram()
        self._inference = Histogram()
        self._start = time.time()

    def count(self, route: str, status: int, seconds: float | None) -> None:
        """Count one answer.

        Args:
            route: one of the server's own, or ``other``: a client chooses no labels.
            status: of HTTP.
            seconds: that an answer of ``/predict`` took.
        """
        with self._lock:
            self._requests[route, status] += 1
            if route == "/predict" and seconds is not None:
                self._latency.add(seconds)

    def inferred(self, seconds: float) -> None:
        """Count one inference."""
        with self._lock:
            self._inference.add(seconds)

    def text(self, *, queued: int, ready: bool, model: Mapping[str, str]) -> str:
        """Return all of it as text.

        Args:
            queued: images that wait now.
            ready: whether images are classified.
            model: labels of the file and of what runs it.
        """
        with self._lock:
            requests = [
                f'pare_requests_total{{route="{route}",code="{status}"}} {count}'
                for (route, status), count in sorted(self._requests.items())
            ]
            latency = self._latency.lines("pare_predict_seconds")
            inference = self._inference.lines("pare_inference_seconds")
        resident = memory.resident()
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in model.items())
        families = [
            ("pare_requests_total", "counter", "Answers by route and code.", requests),
            ("pare_predict_seconds", "histogram", "Seconds of each /predict.", latency),
            ("pare_inference_seconds", "histogram", "Seconds in the engine.", inference),
            _gauge("pare_queue_depth", "Images that wait.", queued),
            _gauge("pare_ready", "1 while images are classified.", int(ready)),
            _gauge("process_resident_memory_bytes", "Memory in use.", resident),
            _gauge("process_start_time_seconds", "Unix time of the start.", self._start),
            ("pare_model_info", "gauge", "The file.", [f"pare_model_info{{{labels}}} 1"]),
        ]
        return "".join(_family(*family) for family in families)


def _gauge(name: str, help_: str, value: float | None) -> tuple[str, str, str, list[str]]:
    return name, "gauge", help_, [] if value is None else [f"{name} {value}"]


def _family(name: str, kind: str, help_: str, lines: Iterable[str]) -> str:
    head = [f"# HELP {name} {help_}", f"# TYPE {name} {kind}"]
    return "\n".join([*head, *lines]) + "\n"


def _escaped(value: str) -> str:
    r"""Return a label's value as the format wants it.

    >>> _escaped('a"b\\c')
    'a\\"b\\\\c'
    """
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
