"""Starts the processes of one training, listens to them, and ends them all together.

A process is a module run by ``python -P -m``. Its standard input is one line of JSON, what it
is asked for, and stays open for as long as the run lives; its standard output is a line of
JSON for each thing it has to say. What it prints beside that is kept and shown where it fails.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import IO, Any

from pipeline.core.errors import PareError

_ROOT = Path(__file__).parents[2]
_HERE = "127.0.0.1"
#: Seconds in which the others may say why, once one has failed: who fails first is seldom the
#: one whose fault it is, as all of them wait for each other.
_PATIENCE_S = 3.0

Message = dict[str, Any]


class ProcessError(Exception):
    """A training process failed for a reason that is no user's: its own traceback."""


@dataclass(frozen=True)
class _Child:
    """One process and what it printed."""

    rank: int
    process: subprocess.Popen[str]
    log: IO[str]

    def said(self) -> str:
        """Return all that it printed beside its messages."""
        self.log.seek(0)
        return self.log.read().strip()


@dataclass(frozen=True)
class _Heard:
    """A message of a process, or its end."""

    child: _Child
    message: Message | None


@dataclass(frozen=True)
class _Failure:
    """Why a process failed; of several, the one with the lowest order is told."""

    order: int
    error: Exception


def run_processes(
    module: str, request: Message, count: int, hear: Callable[[Message], None]
) -> None:
    """Run a module in several processes and return when all have ended well.

    However this ends, none of them is left: an error, Ctrl-C or what ``hear`` raises ends
    them, and they end by themselves if this process is killed.

    Args:
        module: its name; it calls ``pipeline.training.member.member``.
        request: what each of them is asked for.
        count: processes in all.
        hear: called with each message, in the order in which they arrive.

    Raises:
        PareError: what a process refused, or that one was killed.
        ProcessError: one failed otherwise; with its traceback.
    """
    heard: queue.Queue[_Heard] = queue.Queue()
    with _meeting_place() as port, _started(module, count, port) as children:
        for child in children:
            _ask(child, request)
            threading.Thread(target=_listen, args=(child, heard), daemon=True).start()
        failures = _follow(heard, count, hear)
    if failures:
        raise min(failures, key=lambda failure: failure.order).error


@contextmanager
def _meeting_place() -> Iterator[int]:
    """Serve the store by which the processes find each other, on loopback; yield its port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch exports it so

    # Bound here: a free port that is only looked up may be taken when it is used, and torch
    # would listen on every address of the machine.
    listening = socket.create_server((_HERE, 0))
    port = listening.getsockname()[1]
    store = TCPStore(
        _HERE,
        port,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )
    try:
        yield port
    finally:
        del store


@contextmanager
def _started(module: str, count: int, port: int) -> Iterator[list[_Child]]:
    """Start the processes; afterwards none of them is alive."""
    with ExitStack() as alive:
        yield [alive.enter_context(_child(module, r, count, port)) for r in range(count)]


@contextmanager
def _child(module: str, rank: int, count: int, port: int) -> Iterator[_Child]:
    """Start one process, and end it."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],  # no file of the current folder goes first
            env=_environment(os.environ, rank, count, port),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is this process's to answer
        )
        try:
            yield _Child(rank, process, log)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                _close(pipe)


def _close(pipe: IO[str] | None) -> None:
    """Close a pipe, whatever was still to be said on it."""
    try:
        if pipe:
            pipe.close()
    except OSError:
        return


def _environment(own: Mapping[str, str], rank: int, count: int, port: int) -> dict[str, str]:
    """Return a process's environment: ours, and its place, in torchrun's variables."""
    path = [str(_ROOT), *filter(None, [own.get("PYTHONPATH")])]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if _has_loopback() else {}
    return {
        **loopback,
        **own,
        "PYTHONPATH": os.pathsep.join(path),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": _HERE,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "pare",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _has_loopback() -> bool:
    return "lo" in {name for _, name in socket.if_nameindex()}


def _ask(child: _Child, request: Message) -> None:
    assert child.process.stdin is not None
    try:
        child.process.stdin.write(json.dumps(request) + "\n")
        child.process.stdin.flush()
    except BrokenPipeError:  # it has ended already, which is heard
        return


def _listen(child: _Child, heard: queue.Queue[_Heard]) -> None:
    """Pass on what a process says until it ends."""
    assert child.process.stdout is not None
    try:
        for line in child.process.stdout:
            heard.put(_Heard(child, json.loads(line)))
    except ValueError:  # not what a member says, or the pipe was closed
        child.process.kill()
    child.process.wait()
    heard.put(_Heard(child, None))


def _follow(
    heard: queue.Queue[_Heard], count: int, hear: Callable[[Message], None]
) -> list[_Failure]:
    """Listen until all processes have ended; return why those that failed did."""
    failures: list[_Failure] = []
    running, until = count, float("inf")
    while running and time.monotonic() < until:
        try:
            # In short steps: a wait without an end hears no Ctrl-C on some systems.
            one = heard.get(timeout=min(1.0, max(0.0, until - time.monotonic())))
        except queue.Empty:
            continue
        if one.message is None:
            running -= 1
            failures += _ending(one.child, count)
        elif "refused" in one.message:
            failures.append(_Failure(0, PareError(one.message["refused"])))
        else:
            hear(one.message)
        if failures:
            until = min(until, time.monotonic() + _PATIENCE_S)
    return failures


def _ending(child: _Child, count: int) -> list[_Failure]:
    """Return the failure that the end of a process is, if it is one."""
    code = child.process.returncode
    who = f"training process {child.rank} of {count}"
    if code == 0:
        return []
    if code < 0:
        text = (
            f"{who} was ended by {Signals(-code).name}, and the others with it. If nobody did "
            "that, memory may have run out: lower train.batch_size or train.devices. The same "
            "command goes on after the last finished epoch."
        )
        return [_Failure(1, PareError(text))]
    return [_Failure(2, ProcessError(f"{who} failed with code {code}:\n{child.said()}"))]
