"""Workers that classify images behind a queue that refuses when it is full.

Engines are not re-entrant. Each worker has one of its own rather than all one with a lock:
with one worker, the default, both are the same; with more, inferences run beside each other,
which a lock would forbid, at the price of the file's memory once a worker. Images are decoded
by the workers as well, so that no more of them are in memory at a time than there are workers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime

from pipeline.runtime.classifier import Answer, Classifier


class Busy(Exception):
    """As many images wait as may."""


class Late(Exception):
    """An answer took longer than was allowed."""


class Closed(Exception):
    """No images are taken: not yet, or no more."""


class _Job:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.answer: Future[Answer] = Future()


class Pool:
    """Some workers and their queue.

    Args:
        load: makes the classifier of a worker.
        workers: at least 1.
        waiting: images that may wait beside those that are worked on.

    Attributes:
        classifier: the first worker's, once it is loaded.
        problem: what kept a classifier from being loaded.
    """

    def __init__(self, load: Callable[[], Classifier], workers: int, waiting: int) -> None:
        self.classifier: Classifier | None = None
        self.problem: Exception | None = None
        self._load = load
        self._workers = workers
        self._queue: queue.Queue[_Job | None] = queue.Queue(waiting)
        self._open = threading.Event()
        self._loader = threading.Thread(target=self._begin, daemon=True)
        self._threads: list[threading.Thread] = []

    @property
    def ready(self) -> bool:
        """Whether images are classified: every worker has run its engine once."""
        return self._open.is_set()

    @property
    def queued(self) -> int:
        """How many images wait."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin to load, in the background."""
        self._loader.start()

    def classify(self, content: bytes, timeout_s: float) -> Answer:
        """Wait for the answer for one encoded image.

        Raises:
            Busy: the queue is full.
            Closed: the pool is not ready, or stopping.
            Late: there is no answer in time; one that nobody has begun is dropped.
            ImageError: the image can't be decoded.
            EngineError: the engine failed.
        """
        if not self.ready:
            raise Closed
        job = _Job(content)
        try:
            self._queue.put_nowait(job)
        except queue.Full as error:
            raise Busy from error
        try:
            return job.answer.result(timeout_s)
        except NotInTime as error:
            job.answer.cancel()
            raise Late from error

    def close(self) -> None:
        """Take no more images; those that wait are still classified."""
        self._open.clear()

    def stop(self, timeout_s: float) -> bool:
        """Close, and wait for the workers to finish what they have; tell whether they did."""
        self.close()
        end = time.monotonic() + timeout_s
        if self._loader.is_alive():
            return False
        try:
            for _ in self._threads:
                self._queue.put(None, timeout=max(end - time.monotonic(), 0))
        except queue.Full:
            return False
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)

    def _begin(self) -> None:
        try:
            # One after the other: loading silences the standard error of the whole process.
            loaded = [self._load() for _ in range(self._workers)]
        except Exception as error:  # told by the thread that serves
            self.problem = error
            return
        self.classifier = loaded[0]
        self._threads = [
            threading.Thread(target=self._work, args=(one,), daemon=True) for one in loaded
        ]
        for thread in self._threads:
            thread.start()
        self._open.set()

    def _work(self, classifier: Classifier) -> None:
        while (job := self._queue.get()) is not None:
            if not job.answer.set_running_or_notify_cancel():
                continue
            try:
                job.answer.set_result(classifier.classify(job.content))
            except BaseException as error:  # whoever waits is told, and the worker stays
                job.answer.set_exception(error)
