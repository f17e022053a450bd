"""What is known of one exported file: its parity, accuracy, sizes, time and audit."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import zstandard

from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.plan import SchemePlan
from pipeline.data import Dataset, Split
from pipeline.exporters import ExportFailure, Images
from pipeline.exporters.election import Candidate, Weights
from pipeline.exporters.parity import Parity, compare
from pipeline.profilers.audit import audit
from pipeline.profilers.file_graph import read
from pipeline.runtime.bench import measure_in_turns
from pipeline.runtime.conditions import emulation
from pipeline.runtime.engines import Engine, open_model
from pipeline.runtime.metadata import read_metadata
from pipeline.runtime.tensors import EngineError
from pipeline.training.evaluation import accuracy, logits

if TYPE_CHECKING:
    from torch import nn

    from pipeline.core.recipe import Recipe

_RUNS, _WARMUP = 30, 5


@dataclass(frozen=True)
class Examiner:
    """Judges files by the PyTorch network that they were made from.

    Attributes:
        network: the compact one, float32: what every file is compared with.
        trained: the one that was trained with rounding, where there is one: its decisions
            are those of the files that hold its weights.
        pixels: whether the files take raw pixels instead of normalised images.
    """

    data: Dataset
    network: nn.Module
    trained: nn.Module | None
    recipe: Recipe
    pixels: bool

    @cached_property
    def _logits(self) -> npt.NDArray[np.float32]:
        return self._of(self.network)

    @cached_property
    def _trained_logits(self) -> npt.NDArray[np.float32]:
        return self._logits if self.trained is None else self._of(self.trained)

    def _of(self, network: nn.Module) -> npt.NDArray[np.float32]:
        return np.asarray(logits(network, self.data.test.images, self.data).numpy())

    @cached_property
    def _validation_top1(self) -> float:
        return accuracy(self.network, self.data.validation, self.data)

    def examine(
        self, exporter: str, weights: Weights, plan: SchemePlan, made: Path | ExportFailure
    ) -> Candidate:
        """Return all that is known of one file; whether it is made, refused or wrong."""
        unmade = Candidate(
            exporter=exporter, weights=weights, file=plan.file_name, state="refused"
        )
        if isinstance(made, ExportFailure):
            return unmade.model_copy(update={"why": made.reason})
        try:
            engine = open_model(made)
            parity = self._compared(engine, weights, plan)
            found = audit(read(made), plan.dtype)
        except (EngineError, PareError) as error:
            why = str(error).replace(f"{made.parent}/", "")
            return unmade.model_copy(update={"why": why})
        lie = _pretence(found)
        content = made.read_bytes()
        return Candidate(
            exporter=exporter,
            weights=weights,
            file=plan.file_name,
            state="made" if parity.passed and not lie else "wrong",
            why=lie or ("" if parity.passed else parity.why),
            bytes=len(content),
            gzip_bytes=len(gzip.compress(content, 9, mtime=0)),
            zstd_bytes=len(zstandard.ZstdCompressor(level=19).compress(content)),
            parity=parity,
            validation_top1=self._top1(engine, self.data.validation),
            made_by=tuple(read_metadata(made).get("made_by", ())),
            audit=found.model_dump(mode="json"),
        )

    def _compared(self, engine: Engine, weights: Weights, plan: SchemePlan) -> Parity:
        """Compare a file with the network whose weights it holds, and with the plain one."""
        options = self.recipe.export
        return compare(
            engine,
            self._shown(self.data.test),
            self.data.test.labels.numpy(),
            self._trained_logits if weights == "qat" else self._logits,
            dtype=plan.dtype,
            max_float_difference=options.max_float_difference,
            min_agreement=options.min_agreement,
            max_accuracy_drop=self.recipe.quantize.max_accuracy_drop,
            untouched_logits=self._logits,
        )

    def drop(self, made: Path | ExportFailure) -> float | None:
        """Return the points of top-1 that a file loses on the validation split."""
        if isinstance(made, ExportFailure):
            return None
        return self._points(self._top1(open_model(made), self.data.validation))

    def lost(self, candidate: Candidate) -> float | None:
        """Return the points that a file loses which was examined before."""
        top1 = candidate.validation_top1
        return None if top1 is None else self._points(top1)

    def _points(self, top1: float) -> float:
        return (self._validation_top1 - top1) * 100

    def _top1(self, engine: Engine, split: Split) -> float:
        found = np.concatenate([engine.run(images) for images in self._shown(split)])
        return float((found.argmax(1) == split.labels.numpy()).mean())

    def _shown(self, split: Split) -> Iterator[Images]:
        """Yield the images of a split as the files take them."""
        if not self.pixels:
            yield from (batch.numpy() for batch in self.data.batches(split.images))
            return
        for part in split.images.split(512):
            yield part.float().numpy()


def _pretence(found: Any) -> str:
    """Return what is wrong with a file that says int8 but is not."""
    try:
        found.demand()
    except PareError as error:
        return str(error)
    return ""


def in_turns(paths: Sequence[Path]) -> list[Measure | None]:
    """Return the median time of one inference of each file, all of them run in turns.

    What else a machine does then slows all of them down alike, so that they can be compared.
    Where the processor is emulated time means nothing, and there is none.
    """
    if emulation():
        return [None] * len(paths)
    engines = [open_model(path) for path in paths]
    timings = measure_in_turns(
        [engine.invoke for engine in engines], warmup_runs=_WARMUP, runs=_RUNS
    )
    return [
        Measure(
            value=timing.median_ms,
            unit="ms",
            basis="measured",
            n=timing.n,
            spread=timing.median_interval_ms,
            conditions={"threads": 1, "runtime": engine.runtime, "in_turns": True},
        )
        for timing, engine in zip(timings, engines, strict=True)
    ]
