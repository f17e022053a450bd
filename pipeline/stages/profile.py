"""Every file x every target -> measured, predicted and bound figures, and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.core.artifact import sha256
from pipeline.core.measure import Measure
from pipeline.core.rundir import read_json, write_json
from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.file_graph import FileGraph, read
from pipeline.profilers.measurement import Measurement
from pipeline.profilers.memory import plan
from pipeline.profilers.profile import Profile, claimed
from pipeline.profilers.verdict import Verdict, choose, judge
from pipeline.stages.context import Context
from pipeline.stages.timing import by_kernel, profiles_of, timed


def run(context: Context) -> dict[str, Any]:
    """Time each file on this machine, and hold it against every target's limits.

    What was measured on the devices themselves (``pare profile RUN --on ...``) goes into the
    verdicts; a time of this machine never does.

    Raises:
        PareError: this process is emulated, so that its time means nothing.
    """
    folder = context.inputs["export"]
    files = [f for f in read_json(folder / "files.json") if f["state"] == "made"]
    graphs = {entry["file"]: read(folder / entry["file"]) for entry in files}
    measured = [_measured(context, folder / name, graph) for name, graph in graphs.items()]
    verdicts = [_verdict(context, target, files, graphs) for target in context.targets]
    write_json(context.out / "profile.json", {"files": measured, "targets": verdicts})
    fitting = sum(bool(verdict["chosen"]) for verdict in verdicts)
    judged = f"{fitting} of {len(verdicts)} targets have a file that fits"
    return {
        "summary": f"{len(files)} files timed on this machine; "
        + (judged if verdicts else "no target was asked for"),
        "files": measured,
        "targets": verdicts,
    }


def _measured(context: Context, path: Path, graph: FileGraph) -> dict[str, Any]:
    """Time one file at every thread count of the recipe."""
    shelf = context.out.parent / "timings"
    results = [
        timed(path, context.recipe.profile, threads, shelf)
        for threads in context.recipe.profile.threads
    ]
    return {
        "file": path.name,
        "latency": [Measurement.of(result).model_dump(mode="json") for result in results],
        "macs": graph.macs,
        "activation_bytes": graph.activation_bytes,
        "weight_bytes": graph.weight_bytes,
        "memory": plan(graph).model_dump(mode="json"),
        "operators": by_kernel(results[0]),
    }


def _verdict(
    context: Context,
    target: Target,
    files: list[dict[str, Any]],
    graphs: dict[str, FileGraph],
) -> dict[str, Any]:
    """Judge all files for one target and choose one."""
    folder = context.inputs["export"]
    on_device = profiles_of(context.out.parent, target)
    verdicts = [
        judge(
            Candidate.of(
                folder / entry["file"],
                graphs[entry["file"]],
                target,
                scheme=entry["scheme"],
                top1=entry["parity"]["top1"]["value"],
                reference_top1=context.metric("train", "reference_accuracy"),
                compact_top1=context.metric("compact", "test_accuracy"),
                measured=_claimed(on_device.get(sha256(folder / entry["file"]))),
            ),
            target,
        )
        for entry in files
    ]
    choice = choose(verdicts)
    nearest = _nearest(verdicts)
    return {
        "id": target.id,
        "name": target.name,
        "chosen": choice.file,
        "nearest": nearest.candidate.file if nearest and not choice.file else None,
        "why": choice.reason if choice.file else _distance(nearest),
        "files": [_row(verdict) for verdict in verdicts],
        "lost": {loss.file: loss.reason for loss in choice.lost},
    }


def _claimed(profile: Profile | None) -> Measure | None:
    return claimed(profile.measured) if profile and profile.measured else None


def _nearest(verdicts: list[Verdict]) -> Verdict | None:
    """Return the file that breaks the fewest limits, the most accurate of those."""

    def rank(verdict: Verdict) -> tuple[int, float, int]:
        candidate = verdict.candidate
        return len(verdict.failed), -(candidate.top1 or 0.0), candidate.bytes

    return min(verdicts, key=rank, default=None)


def _row(verdict: Verdict) -> dict[str, Any]:
    candidate = verdict.candidate
    return {
        "file": candidate.file,
        "fits": verdict.fits,
        "measured": _dumped(candidate.measured),
        "predicted": _dumped(candidate.predicted),
        "bound": _dumped(candidate.bound),
        "peak_ram": _dumped(candidate.peak_ram),
        "checks": [check.model_dump(mode="json") for check in verdict.checks],
    }


def _dumped(measure: Any) -> Any:
    return measure.model_dump(mode="json") if measure else None


def _distance(nearest: Verdict | None) -> str:
    """Say what stands between the nearest file and the target."""
    if not nearest:
        return "There is no file to offer."
    limits = "; ".join(
        f"{c.name}: {c.figure}, limit {c.limit}. {c.remedy}" for c in nearest.failed
    )
    return f"Nearest is {nearest.candidate.file}: {limits}"
