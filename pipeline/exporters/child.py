"""What both TFLite converters do in their child process: files in, files out, no network."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.plan import SchemePlan

MISSING = 3  # exit code: a package of the converter is not installed

_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


@dataclass(frozen=True)
class Request:
    """What a child process is asked for.

    Attributes:
        source: the network, in the form that the converter reads.
        calibration: ``[n, h, w, c]`` as the file takes them.
        kept: weights of the layers that stay in float, by the layer's name.
    """

    source: Path
    calibration: npt.NDArray[np.float32]
    input_name: str
    output_name: str
    plans: list[SchemePlan]
    kept: dict[str, npt.NDArray[np.float32]]

    @classmethod
    def read(cls, path: Path) -> Request:
        """Read a request that ``converting`` wrote; from here on nothing reaches a network."""
        sys.addaudithook(_refuse_network)
        values = json.loads(path.read_text(encoding="utf-8"))
        threading.Thread(target=_end_with, args=(values["parent"],), daemon=True).start()
        with np.load(values["kept"], allow_pickle=False) as kept:
            weights = dict(kept)
        return cls(
            source=Path(values["source"]),
            calibration=np.load(values["calibration"], allow_pickle=False),
            input_name=values["input_name"],
            output_name=values["output_name"],
            plans=[SchemePlan.model_validate(plan) for plan in values["plans"]],
            kept=weights,
        )

    def one_by_one(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the calibration images, ``[1, h, w, c]`` each."""
        yield from np.split(self.calibration, len(self.calibration))


def write_each(plans: list[SchemePlan], convert: Callable[[SchemePlan], bytes]) -> None:
    """Write a file for each plan, whole or not at all.

    A plan that cannot be followed leaves ``<file>.error``, and the others go on.
    """
    for plan in plans:
        made = Path(plan.file_name)
        try:
            content = convert(plan)
        except Exception:  # converters raise anything
            error = traceback.format_exc()
            sys.stderr.write(error)
            made.with_name(f"{made.name}.error").write_text(error, encoding="utf-8")
            continue
        part = made.with_name(f"{made.name}.part")
        part.write_bytes(content)
        part.replace(made)


def _end_with(parent: int) -> None:
    """End this process and its children when the run that started it is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise PermissionError(
            f"the converter tried to reach the network: {event} {arguments!r}"
        )
