"""Profiles one file, or the files of a run on a device, and prints what was found."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.inspecting import shortened
from pipeline.core.errors import OverBudget, PareError
from pipeline.core.target import Target

if TYPE_CHECKING:
    from pipeline.core.measure import Measure
    from pipeline.profilers.measurement import Measurement
    from pipeline.profilers.profile import Profile
    from pipeline.profilers.transports import Tell, Transport
    from pipeline.profilers.verdict import Verdict
    from pipeline.runtime.harness import Settings

_TOP = 8  # operators printed


def of_file(
    path: Path,
    *,
    targets: Sequence[str],
    on: str | None,
    as_json: bool,
    out: Path | None,
    quiet: bool,
    **how: Any,
) -> None:
    """Profile a file for each target and print what was found.

    Raises:
        PareError: the file or the machine is at fault.
        OverBudget: the file breaks a limit of a target; after everything is printed.
    """
    from pipeline.profilers.profile import profile

    wanted = [Target.load(name) for name in targets]
    if not wanted:
        raise PareError(
            f"for which device is {path}? Add --target NAME; `pare targets list` lists them."
        )
    if out and len(wanted) > 1:
        raise PareError("--out keeps one profile. Give one --target, or leave --out.")
    if out:
        _writable(out)
    _measuring_only(on, how)
    found = []
    for target in wanted:
        machine, settings = _machine(on, target, path, how)
        found.append(profile(path, target, machine, settings, _teller(quiet)))
    if as_json:
        plain = [one.plain() for one in found]
        click.echo(json.dumps(plain if len(plain) > 1 else plain[0], indent=1))
    elif not quiet:
        names = {target.id: target.name for target in wanted}
        click.echo("\n\n".join("\n".join(lines(one, names[one.target])) for one in found))
    if out:
        write(found[0], out)
    _demand([one.verdict for one in found])


def of_run(folder: Path, *, targets: Sequence[str], on: str, quiet: bool, **how: Any) -> None:
    """Measure the files of a run on a device and keep the profiles in the run.

    Only files of a form that the target takes are measured, those that were measured before
    again. Each profile is written when it is whole.

    Raises:
        PareError: no such run, not exactly one target, or the machine is at fault; profiles
            that are finished stay.
    """
    from pipeline.core.recipe import Recipe
    from pipeline.core.rundir import RunDir, device_profiles, read_json
    from pipeline.profilers.profile import profile
    from pipeline.stages import STAGES, named

    if not (folder / "recipe.toml").is_file():
        raise PareError(f"{folder} is not the folder of a run: it has no recipe.toml.")
    own = Recipe.load(folder / "recipe.toml").targets
    target = _one_of(targets or own, own, folder, on)
    number = STAGES.index(named("export")) + 1
    if RunDir(folder).finished(number, "export") is None:
        raise PareError(f"{folder} has no finished files. Make them: pare export {folder}.")
    files = RunDir(folder).folder(number, "export")
    made = [entry for entry in read_json(files / "files.json") if entry["state"] == "made"]
    taken = [entry["file"] for entry in made if entry["format"] in target.constraints.formats
             and entry["dtype"] in target.constraints.dtypes]  # fmt: skip
    if not taken:
        raise PareError(f"{folder} has no file of a form that {target.id} takes.")
    keep = device_profiles(folder, target.id)
    with RunDir(folder).lock():
        for name in taken:
            machine, settings = _machine(on, target, files / name, how)
            found = profile(files / name, target, machine, settings, _teller(quiet))
            keep.mkdir(parents=True, exist_ok=True)
            write(found, keep / f"{name}.json")
            if not quiet:
                click.echo(_one_line(found))


def _one_of(names: Sequence[str], own: Sequence[str], run: Path, on: str) -> Target:
    """Return the one target that a machine is, which has to be among those of the run."""
    if len(names) != 1:
        raise PareError(
            f"--on {on} is one machine, and the targets are {', '.join(names) or 'none'}. Say "
            f"which one it is: --target NAME."
        )
    target, known = Target.load(names[0]), [Target.load(name).id for name in own]
    if target.id not in known:
        added = " ".join(f"--target {name}" for name in (*own, names[0]))
        raise PareError(
            f"{run} makes no files for {target.id}, only for {', '.join(known) or 'nothing'}. "
            f"Add it first: pare run {run} {added}"
        )
    return target


def _writable(path: Path) -> None:
    """Refuse a place that can't be written before minutes are spent.

    Raises:
        PareError: it is a folder, or in none that can be written.
    """
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise PareError(f"{path} can't be written. Choose a file in a folder that is there.")


def _measuring_only(on: str | None, how: Mapping[str, Any]) -> None:
    """Refuse options that say how to measure where nothing is measured.

    Raises:
        PareError: names them.
    """
    given = [name for name, value in how.items() if value is not None]
    if on is None and given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise PareError(f"{options}: for measuring only. Add --on, or leave them out.")


def write(found: Profile, path: Path) -> None:
    """Write a profile in full or not at all.

    Raises:
        PareError: it can't be written there.
    """
    from pipeline.core.rundir import write_json

    try:
        write_json(path, found.plain())
    except OSError as error:
        raise PareError(f"{path} can't be written: {error.strerror}.") from error


def _machine(
    on: str | None, target: Target, path: Path, how: Mapping[str, Any]
) -> tuple[Transport | None, Settings | None]:
    """Return the machine that measures, and how it does."""
    from pipeline.profilers.profile import settings_for
    from pipeline.profilers.transports.opening import transport

    if on is None:
        return None, None
    machine = transport(
        on, target, identity=how["identity"], image=how["image"], binary=how["benchmark_model"]
    )
    settings = settings_for(target, "onnx" if path.suffix == ".onnx" else "tflite", on)
    changed = {key: how[key] for key in ("threads", "runs", "seconds", "repeats")}
    asked = replace(settings, **{k: v for k, v in changed.items() if v is not None})
    return machine, replace(asked, most_s=max(asked.most_s, asked.seconds))


def _teller(quiet: bool) -> Tell:
    def tell(event: Mapping[str, Any]) -> None:
        if not quiet and event.get("state") == "end" and event["event"] == "window":
            number, runs = event.get("number", 0) + 1, event.get("n", 0)
            click.echo(f"  repeat {number}: {runs:,} runs", err=True)

    return tell


def _demand(verdicts: Sequence[Verdict]) -> None:
    broken = [
        f"{verdict.target}: {verdict.candidate.file} does not fit ("
        + "; ".join(f"{c.name} {c.figure}, limit {c.limit}" for c in verdict.failed)
        + ")"
        for verdict in verdicts
        if not verdict.fits
    ]
    if broken:
        raise OverBudget("\n".join(broken))


def lines(found: Profile, name: str) -> list[str]:
    """Return a profile as lines for a terminal."""
    graph = found.graph
    return [
        f"{found.file.name} on {name} ({found.target})",
        (f"  file       {found.file.format}, {graph.dtype}, {found.file.bytes:,} bytes, "
        f"{graph.macs:,} MACs, sha256 {found.file.sha256[:12]}"),
        f"  memory     {_memory(found)}",
        *_measured(found),
        *_answers(found),
        *_told("predicted", found.predicted, "no calibration for its runtime and dtype"),
        *_because(found.predicted),
        *_told("bound", found.bound, "the target states no peak"),
        *_energy(found),
        *_verdict(found.verdict),
    ]  # fmt: skip


def _energy(found: Profile) -> list[str]:
    most = found.energy_bound
    if most is None:
        return []
    how = "bound: the board at full load"
    return [f"  energy     at most {most.value:.3g} mJ an inference ({how})"]


def _memory(found: Profile) -> str:
    plan, weights = found.graph.memory, found.graph.weight_bytes
    return (
        f"weights {weights:,} bytes; activations at least {plan.liveness_bytes:,} (at "
        f"{shortened(plan.where)}), arena {plan.greedy_bytes:,}, apart {plan.naive_bytes:,}"
    )


def _told(name: str, figure: Measure | None, missing: str) -> list[str]:
    if figure is None:
        return [f"  {name:<10} none: {missing}"]
    spread = f" ({figure.spread[0]:.3g} to {figure.spread[1]:.3g})" if figure.spread else ""
    least = "at least " if figure.basis == "bound" else ""
    return [f"  {name:<10} {least}{figure.value:.3g} {figure.unit}{spread}"]


def _because(predicted: Measure | None) -> Iterator[str]:
    """Say what a prediction rests on, and where it reaches beyond that."""
    if predicted is None:
        return
    known = predicted.conditions
    error = known.get("loo_mape_pct")
    told = f"leave-one-out error {error:g} %" if error else "no error known: half to twice"
    yield f"             from {known['calibration']} ({known['calibration_basis']}; {told})"
    if known.get("extrapolated"):
        yield "             extrapolated: outside the sizes that the rates were fitted to"
    if known.get("why"):
        yield f"             {known['why']}"


def _measured(found: Profile) -> Iterator[str]:
    if found.on is None:
        yield "  measured   no: give --on to measure"
        return
    if found.measured is None:
        yield f"  measured   not on {found.on}: {found.refused}"
        return
    taken = found.measured
    plural = "" if taken.threads == 1 else "s"
    yield (
        f"  measured   on {found.on}: {taken.runtime} {taken.runtime_version}, "
        f"{taken.threads} thread{plural}"
    )
    if found.stranger:
        yield f"             not a figure of {found.target}: {found.stranger}"
    yield f"    latency  {_latency(taken)}"
    yield f"    repeats  {_repeats(taken)}"
    yield f"    start    {_start(taken)}"
    if taken.memory and taken.memory.get("peak_bytes"):
        steady, peak = taken.memory["steady_bytes"], taken.memory["peak_bytes"]
        yield f"    process  {steady / 1e6:.1f} MB resident, {peak / 1e6:.1f} MB at most"
    if "median_ms" in taken.around:
        parts = ", ".join(f"{k} {v:.3g} ms" for k, v in taken.around["median_ms"].items())
        yield f"    around   {parts} (not in the latency)"
    if taken.energy:
        method = taken.energy.method
        yield f"    energy   {taken.energy.gross_mj:.3g} mJ an inference ({method})"
    yield f"    machine  {_conditions(taken)}"
    yield from _operators(found)


def _latency(taken: Measurement) -> str:
    typical = "median" if taken.median else "mean"
    parts = [f"{typical} {taken.typical.value:.4g} ms"]
    if taken.median and taken.median.spread:
        parts[0] += f" ({taken.median.spread[0]:.4g} to {taken.median.spread[1]:.4g})"
    named = {"p90": taken.p90, "p95": taken.p95, "p99": taken.p99, "min": taken.minimum}
    parts += [f"{name} {one.value:.4g}" for name, one in named.items() if one]
    if taken.p90_claim:
        parts.append(f"p90 claimed with 99 % confidence {taken.p90_claim.value:.4g}")
    return ", ".join(parts) + f"; n = {taken.typical.n:,}"


def _repeats(taken: Measurement) -> str:
    drift = f", drift {taken.drift:+.1%}" if taken.drift is not None else ""
    if taken.stable is None:
        return f"one only, so nothing is known of its repeatability{drift}"
    state = "stable" if taken.stable else "UNSTABLE"
    return f"{state}: {len(taken.windows_ms)} within {taken.spread:.1%} (limit 5 %){drift}"


def _start(taken: Measurement) -> str:
    load = taken.load
    parts = {
        "engine import": load.get("import_ms"),
        "load cold" if load.get("cache_dropped") else "load": load.get("cold_ms"),
        "load warm": load.get("warm_ms"),
        "first inference": taken.first_ms,
    }
    return ", ".join(f"{name} {ms:.3g} ms" for name, ms in parts.items() if ms is not None)


def _conditions(taken: Measurement) -> str:
    before, after = taken.conditions["before"], taken.conditions["after"]
    parts = [str(before.get("cpu") or before.get("machine"))]
    for key, unit in (("frequency_mhz", "MHz"), ("temperature_c", "C")):
        if before.get(key) is not None and after.get(key) is not None:
            parts.append(f"{before[key]:.0f} to {after[key]:.0f} {unit}")
    pinned = taken.conditions.get("pinned")
    if pinned and not pinned["granted"]:
        parts.append(f"NOT on the cores {pinned['mask']}")
    if before.get("governor"):
        parts.append(f"governor {before['governor']}")
    throttled = after.get("throttled")
    if throttled:
        parts.append("now: " + (", ".join(throttled["now"]) or "not throttled"))
    if before.get("load_average"):
        parts.append(f"load {before['load_average'][0]:.2f}")
    return ", ".join(parts)


def _operators(found: Profile) -> Iterator[str]:
    if not found.operators:
        yield f"    by time  not known: {found.operators_why}"
        return
    for row in found.operators[:_TOP]:
        macs = f"{row.macs:,} MACs" if row.macs else "-"
        bound = f", bound by {row.bound}" if row.bound else ""
        what = f"{row.kernel} {shortened(row.name, 32)}"
        yield f"    {row.share:6.1%}   {row.median_ms:.4g} ms  {what}: {macs}{bound}"


def _answers(found: Profile) -> list[str]:
    same = found.agreement
    if same is None:
        return []
    if same.equal is None:
        told = f"not compared: {same.why}"
    elif same.equal:
        told = f"equal to the bit with this machine's on {same.inputs} inputs"
    elif same.steps is not None:
        told = f"up to {same.steps} steps from this machine's on {same.inputs} inputs"
    else:
        told = f"up to {same.difference or 0:.2g} of the largest from this machine's"
    return [f"  answers    {told}"]


def _verdict(verdict: Verdict) -> Iterator[str]:
    open_ = f", {len(verdict.unknown)} limits not checked" if verdict.unknown else ""
    yield f"  verdict    {'fits' if verdict.fits else 'DOES NOT FIT'}{open_}"
    for check in verdict.checks:
        mark = {True: "ok", False: "NO", None: "??"}[check.passed]
        yield f"    {mark}  {check.name}: {check.why}"
        if check.passed is False:
            yield f"        {check.remedy}"


def _one_line(found: Profile) -> str:
    if found.measured is None:
        return f"{found.file.name}: {found.refused}"
    stable = "" if found.measured.stable is not False else ", UNSTABLE"
    strange = f", not a figure of {found.target}: {found.stranger}" if found.stranger else ""
    return f"{found.file.name}: {found.measured.typical}{stable}{strange}"
