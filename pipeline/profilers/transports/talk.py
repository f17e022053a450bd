"""Runs the program that measures, as a child process, and reads what it says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from pipeline.core.errors import PareError
from pipeline.runtime.harness import Settings

_LONGEST = 64_000_000  # characters of answers; raw samples and outputs are far below
_TEXT_KEPT, _LINES_KEPT = 200_000, 5000
_ERRORS_KEPT = 20_000
_TO_CLEAN_UP_S = 5.0

Tell = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Said:
    """What a child said until it ended.

    Attributes:
        code: its exit code, negative for a signal.
        result: of the measurement, if it came to one.
        error: the program's own sentence on what went wrong.
        text: the end of what it printed beside its events.
        stderr: the end of what it complained of.
        events: how many events came before the end.
    """

    code: int
    result: dict[str, Any] | None
    error: str | None
    text: str
    stderr: str
    events: int


def talk(
    argv: Sequence[str],
    *,
    tell: Tell,
    timeout_s: float,
    payload: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Said:
    """Start a program, feed it, and follow its lines of JSON until it ends.

    Its standard input stays open until then: it is how the other side learns that nobody
    listens any more. The program and its children are killed at the end, whatever happens.

    Args:
        argv: no shell reads it.
        tell: is given each event.
        timeout_s: after which it is stopped.
        payload: written to its standard input first.
        env: its environment, this process's own by default.

    Raises:
        PareError: no such program, it takes too long, or says more than any measurement.
    """
    try:
        child = subprocess.Popen(
            list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=None if env is None else dict(env), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise PareError(
            f"{argv[0]} can't be started ({error.strerror}). Install it."
        ) from error
    assert child.stdin
    assert child.stdout
    assert child.stderr
    complaints = _Tail(child.stderr)
    stopper = _Stopper(child, timeout_s)
    try:
        _feed(child.stdin, payload)
        heard = _follow(child.stdout, tell)
        code = child.wait()
    finally:
        stopper.stop()
        with contextlib.suppress(OSError):
            child.stdin.close()  # which ends the work over there, and cleans up
        _end(child)
        child.stdout.close()
    if stopper.fired:
        raise PareError(
            f"{argv[0]} was stopped: no result after {timeout_s:.0f} s. Ask for fewer runs "
            f"or repeats, or see whether the machine hangs."
        )
    return replace(heard, code=code, stderr=complaints.text())


def time_allowed_s(settings: Settings) -> float:
    """Return after how long a measurement that has not ended hangs."""
    windows = settings.repeats * (settings.most_s + 11 * max(settings.cooldown_s, 1.0))
    return 300 + settings.idle_s + settings.warmup_s + windows + settings.most_s


def _feed(stream: IO[bytes], payload: bytes) -> None:
    try:
        stream.write(payload)
        stream.flush()
    except BrokenPipeError:  # it has ended already, and says why
        return


def _follow(stream: IO[bytes], tell: Tell) -> Said:
    said = Said(code=0, result=None, error=None, text="", stderr="", events=0)
    length, plain = 0, deque[str](maxlen=_LINES_KEPT)
    while line := stream.readline(_LONGEST):
        length += len(line)
        if length > _LONGEST:
            raise PareError(
                f"the machine answered with more than {_LONGEST:,} characters, which no "
                f"measurement is. Nothing of it is believed."
            )
        event = _event(line)
        if event is None:
            plain.append(line.decode(errors="replace"))
        elif event["event"] == "result":
            said = replace(said, result=event.get("result"))
        elif event["event"] == "error":
            said = replace(said, error=str(event.get("message")))
        else:
            said = replace(said, events=said.events + 1)
            tell(event)
    return replace(said, text="".join(plain)[-_TEXT_KEPT:])


def _event(line: bytes) -> dict[str, Any] | None:
    """Return an event; other lines, as a login shell may print them, are none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("event"), str):
        return None
    numbers = (found.get(key, 0) for key in ("n", "number"))
    return found if all(type(number) is int and number >= 0 for number in numbers) else None


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a program and its children; a shell among them gets the time to clean up."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=_TO_CLEAN_UP_S)
            break
        _signal(child, sign)
    _signal(child, signal.SIGKILL)  # what it has left behind
    child.wait()


def _signal(child: subprocess.Popen[bytes], sign: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, sign)


class _Tail:
    """Keeps the end of a stream, read in a thread so that it never fills up."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._kept = b""
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while block := stream.read1(4096):  # type: ignore[attr-defined]
                self._kept = (self._kept + block)[-_ERRORS_KEPT:]

    def text(self) -> str:
        self._thread.join(timeout=5)
        return self._kept.decode(errors="replace").strip()


class _Stopper:
    """Kills a process group after a time."""

    def __init__(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        self.fired = False
        self._child, self._done = child, threading.Event()
        self._deadline = time.monotonic() + seconds
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        if not self._done.wait(max(0.0, self._deadline - time.monotonic())):
            self.fired = True
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def stop(self) -> None:
        self._done.set()
        self._thread.join(timeout=5)
