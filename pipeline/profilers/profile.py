"""A file on a target: measured there or here, predicted or bounded, and whether it fits."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipeline.core.errors import PareError
from pipeline.core.measure import Measure
from pipeline.core.record import Record, digest, parse
from pipeline.core.target import Target
from pipeline.profilers.agreement import Agreement, agreement
from pipeline.profilers.belonging import stranger
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.file_graph import FileGraph, read
from pipeline.profilers.measurement import Energy, Measurement
from pipeline.profilers.memory import MemoryPlan
from pipeline.profilers.operator_table import OperatorRow, operator_rows
from pipeline.profilers.power_meter import PowerMeter
from pipeline.profilers.transports import Tell, Transport
from pipeline.profilers.transports.local import Local
from pipeline.profilers.verdict import Verdict, judge
from pipeline.runtime.harness import Settings

_LARGEST = 64_000_000  # bytes of a profile; the raw samples of five windows take 0.1 MB


class FileId(Record):
    """Which file it is."""

    name: str
    format: Literal["onnx", "tflite"]
    bytes: int
    sha256: str


class GraphFacts(Record):
    """What the file computes and moves."""

    dtype: str
    macs: int
    activation_bytes: int
    weight_bytes: int
    memory: MemoryPlan


class Profile(Record):
    """One file on one target, with everything that is needed to believe it.

    Attributes:
        complete: always true; what was interrupted is never written.
        on: the machine that measured, as the user named it; ``None`` where none did.
        measured: what that machine took.
        refused: why its time does not count, where that is so.
        stranger: why that machine is not the target's device, where that is so: its time is
            shown, and never taken for the target's.
        agreement: of the answers there with those here.
        energy_bound: an upper bound of mJ, from the board's power under full load.
    """

    schema_: Literal["pare-profile/1"] = Field(alias="schema")
    complete: Literal[True]
    created: str
    target: str
    target_digest: str
    on: str | None
    file: FileId
    graph: GraphFacts
    measured: Measurement | None = None
    refused: str | None = None
    stranger: str | None = None
    agreement: Agreement | None = None
    operators: tuple[OperatorRow, ...] = ()
    operators_why: str = ""
    predicted: Measure | None = None
    bound: Measure | None = None
    energy_bound: Measure | None = None
    peak_ram: Measure
    verdict: Verdict

    @property
    def counts(self) -> bool:
        """Whether what was measured is a figure of the target."""
        return self.measured is not None and self.stranger is None

    def plain(self) -> dict[str, Any]:
        """Return the profile as plain data, as it is written."""
        return self.model_dump(mode="json", by_alias=True)


def profile(
    path: Path,
    target: Target,
    machine: Transport | None = None,
    settings: Settings | None = None,
    tell: Tell = lambda _event: None,
) -> Profile:
    """Profile a file for a target.

    Args:
        path: any ``.onnx`` or ``.tflite`` file.
        target: the device that is meant.
        machine: that measures; without one there is the prediction alone.
        settings: how it measures; as the target says by default.
        tell: is given the events of the measurement.

    Raises:
        PareError: the file can't be read, or the machine can't measure it.
    """
    if path.suffix != path.suffix.lower():
        raise PareError(
            f"{path}: engines tell formats by their endings. Rename it to end in "
            f"{path.suffix.lower()}."
        )
    graph = read(path)
    result, energy = None, None
    if machine is not None:
        wanted = settings or settings_for(target, graph.format, on=machine.name)
        result, energy = _metered(machine, path, wanted, tell, target.power.meter_command)
    refused: str | None = result["refused"] if result else None
    measured = Measurement.of(result, energy) if result and not refused else None
    strange = stranger(result["conditions"]["before"], target) if result else None
    candidate = Candidate.of(
        path, graph, target, scheme="",
        measured=claimed(measured) if measured and not strange else None,
    )  # fmt: skip
    table = (result or {}).get("operators") or {}
    return Profile(
        schema="pare-profile/1",
        complete=True,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        target=target.id,
        target_digest=digest(target.model_dump(mode="json")),
        on=machine.name if machine else None,
        file=_identity(path, graph, result),
        graph=_facts(graph, candidate),
        measured=measured,
        refused=refused,
        stranger=strange,
        agreement=agreement(result, path)
        if result and not isinstance(machine, Local)
        else None,
        operators=operator_rows(table, graph, target, measured.threads) if measured else (),
        operators_why=table.get("why", ""),
        predicted=candidate.predicted,
        bound=candidate.bound,
        energy_bound=_energy_bound(candidate, target),
        peak_ram=candidate.peak_ram,
        verdict=judge(candidate, target),
    )


def settings_for(target: Target, kind: Literal["onnx", "tflite"], on: str) -> Settings:
    """Return how a target wants its files measured.

    This machine, where it stands in for another, gets no more threads than it has cores, no
    mask of another's cores, and no pause: it does not heat up as a board does.
    """
    how, engine = target.profile, target.runtime_for(kind)
    mask = target.cpu.affinity_mask if target.cpu else None
    threads = engine.default_threads if engine else 1
    stands_in = on == "local" and target.id != "host"
    return Settings(
        threads=min(threads, os.cpu_count() or 1) if stands_in else threads,
        warmup_runs=how.warmup_runs,
        warmup_s=how.warmup_min_s,
        runs=how.min_runs,
        seconds=how.min_s,
        most_s=how.max_s,
        cooldown_s=0.0 if stands_in else how.cooldown_s,
        max_temp_c=how.max_temp_c,
        affinity_mask=None if stands_in else mask,
        idle_s=5.0 if target.power.meter_command else 0.0,
    )


def claimed(measured: Measurement) -> Measure:
    """Return the latency that a budget of a 90th percentile is held against.

    What can be claimed with 99 % confidence, where enough runs were made; else the largest
    figure that the tool gives, by its name.
    """
    figures = {"p90": measured.p90_claim, "p95": measured.p95, "median": measured.median}
    name, figure = next(
        ((name, one) for name, one in figures.items() if one), ("mean", measured.mean)
    )
    said = {**figure.conditions, "statistic": name}
    return figure.model_copy(update={"spread": None, "conditions": said})


def load(path: Path) -> Profile:
    """Read a profile that was written.

    Raises:
        PareError: it is not there, no JSON, not whole, or of another form.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise PareError(f"{path} is too large for a profile.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PareError(f"{path} is no readable profile ({error}). Measure again.") from error
    if not isinstance(content, Mapping) or content.get("schema") != "pare-profile/1":
        raise PareError(f"{path} is no profile of `pare profile`. Measure again.")
    return parse(Profile, dict(content), str(path))


def _metered(
    machine: Transport,
    path: Path,
    settings: Settings,
    tell: Tell,
    command: Sequence[str] | None,
) -> tuple[dict[str, Any], Energy | None]:
    """Measure, with the target's power meter running beside it where it has one."""
    if not command:
        return machine.measure(path, settings, tell), None
    with PowerMeter(command) as meter:
        result = machine.measure(path, settings, _both(meter.tell, tell))
        return result, None if result["refused"] else meter.energy()


def _both(first: Tell, second: Tell) -> Tell:
    def tell(event: Mapping[str, Any]) -> None:
        first(event)
        second(event)

    return tell


def _identity(path: Path, graph: FileGraph, result: Mapping[str, Any] | None) -> FileId:
    if result:
        return FileId.model_validate(result["file"])
    content = path.read_bytes()
    return FileId(
        name=path.name,
        format=graph.format,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _facts(graph: FileGraph, candidate: Candidate) -> GraphFacts:
    return GraphFacts(
        dtype=graph.dtype,
        macs=graph.macs,
        activation_bytes=graph.activation_bytes,
        weight_bytes=graph.weight_bytes,
        memory=candidate.graph.memory,
    )


def _energy_bound(candidate: Candidate, target: Target) -> Measure | None:
    """Return an upper bound of the energy: the board under full load for as long as it takes.

    Source:
        The board's power under HPL; an inference on fewer cores takes less.
    """
    lasting, load = candidate.measured or candidate.predicted, target.power.load_w
    if lasting is None or load is None:
        return None
    longest = (
        lasting.spread[1] if lasting.basis == "predicted" and lasting.spread else lasting.value
    )
    return Measure(
        value=longest * load.value,
        unit="mJ",
        basis="bound",
        conditions={"load_w": load.value, "source": load.source, "latency": lasting.basis},
    )
