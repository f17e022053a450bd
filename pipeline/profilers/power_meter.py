"""A power meter beside the board: a program that prints watts while the board works."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from pipeline.core.errors import PareError
from pipeline.profilers.measurement import Energy

_FEWEST = 3  # readings in a window


class PowerMeter:
    """Reads a meter's program and notes when the windows of a measurement begin and end.

    The program runs here, prints one number of watts a line, and goes on until it is stopped.
    Use it as a context manager, and give :meth:`tell` the events of the measurement. The way
    from the board to here delays begin and end alike.

    Args:
        command: the program and its operands; no shell reads them.
        clock: in seconds.

    Raises:
        PareError: no such program.
    """

    def __init__(
        self, command: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._command, self._clock = list(command), clock
        self._readings: list[tuple[float, float]] = []
        self._begun: dict[str, float] = {}
        self._spans: dict[str, list[tuple[float, float, int]]] = {"window": [], "idle": []}

    def __enter__(self) -> PowerMeter:
        try:
            self._child = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise PareError(
                f"the power meter {self._command[0]} can't be started ({error.strerror}). "
                f"Correct power.meter_command in the target's file."
            ) from error
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGTERM)
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        self._thread.join(timeout=5)
        assert self._child.stdout
        self._child.stdout.close()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of the harness."""
        kind = str(event["event"])
        if kind not in self._spans:
            return
        if event.get("state") == "begin":
            self._begun[kind] = self._clock()
        elif kind in self._begun:
            span = self._begun.pop(kind), self._clock(), int(event.get("n", 0))
            self._spans[kind].append(span)

    def energy(self) -> Energy:
        """Return the energy of one inference: mean power times time over runs, a window each.

        Raises:
            PareError: the meter printed too little while a window lasted.

        Source:
            MLPerf Tiny: windows of back-to-back inference, their median, idle apart.
        """
        windows = [(*span, self._watts(*span[:2])) for span in self._spans["window"]]
        if not windows:
            raise PareError("no window was measured while the power meter ran.")
        gross = [w * (end - begin) / n for begin, end, n, w in windows]
        rest = [self._watts(begin, end) for begin, end, _ in self._spans["idle"]]
        idle = statistics.fmean(rest) if rest else None
        net = [
            (w - idle) * (end - begin) / n for begin, end, n, w in windows if idle is not None
        ]
        return Energy(
            method=f"power meter: {self._command[0]}",
            gross_mj=statistics.median(gross) * 1e3,
            net_mj=statistics.median(net) * 1e3 if net else None,
            idle_w=idle,
            windows=len(windows),
        )

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            with contextlib.suppress(ValueError):
                self._readings.append((self._clock(), float(line)))

    def _watts(self, begin: float, end: float) -> float:
        within = [watts for moment, watts in list(self._readings) if begin <= moment <= end]
        if len(within) < _FEWEST:
            raise PareError(
                f"the power meter printed {len(within)} numbers in {end - begin:.1f} s; at "
                f"least {_FEWEST} are needed. Let {self._command[0]} print more often, or "
                f"make profile.min_s longer in the target's file."
            )
        return statistics.fmean(within)
