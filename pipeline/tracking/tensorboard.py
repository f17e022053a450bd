"""Event files that TensorBoard shows: ``tensorboard --logdir RUN/tracking``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from pipeline.core.epoch import Epoch
from pipeline.tracking import Place, Scalar, numbers


class Tensorboard:
    """One event file a run, written anew whenever it is told: no step is in it twice.

    Written by tensorboardX's synchronous writer, so that what fails, fails here, where it is
    caught, and not in a thread of its own.
    """

    NEEDS: ClassVar[tuple[str, ...]] = ("tensorboardX",)
    INSTALL: ClassVar[str] = "pip install tensorboardX"

    def __init__(self, place: Place) -> None:
        self._folder = place.folder / "tensorboard"
        self._params: dict[str, Scalar] = {}
        self._writer: Any = None

    def begin(self, params: Mapping[str, Scalar]) -> None:
        """Start an event file in the stead of an older one."""
        from tensorboardX.event_file_writer import EventsWriter

        self._params = dict(params)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        self._writer = EventsWriter(str(self._folder / "events"))

    def epoch(self, curve: str, epoch: Epoch) -> None:
        """Write an epoch's figures at its number, to be seen at once."""
        values = {f"{curve}/{name}": value for name, value in numbers(epoch).items()}
        self._write(values, epoch.epoch)

    def finish(self, figures: Mapping[str, float]) -> None:
        """Write the figures of the stages, and the recipe that they belong to."""
        from tensorboardX.summary import hparams

        self._write(figures, 0)
        for summary in hparams(self._params, dict(figures)):
            self._add(summary, 0)
        self.close()

    def stop(self) -> None:
        """Close the file; a run that is continued writes a new one from its first epoch."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def _write(self, values: Mapping[str, float], step: int) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            self._add(scalar(name, value), step)
        self._writer.flush()

    def _add(self, summary: Any, step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._writer.write_event(Event(summary=summary, step=step, wall_time=time.time()))
