"""A fit: for each device the most accurate network of a family that its limits let in.

Cheap limits come first. What a network takes is counted before it is trained; a target that
nothing can fit is told so within seconds. Only what may fit is trained, and stopped where
others are ahead; files are made of the best alone.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import PareError
from pipeline.core.plugins import EXPORTERS
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import write_json, write_text
from pipeline.core.target import Target
from pipeline.core.wanted import batch
from pipeline.search.counting import Counting, Hope
from pipeline.search.engine import Engine, Watcher
from pipeline.search.family import Member, Space, family
from pipeline.search.fit_feed import FitFeed, Hopes
from pipeline.search.folder import SearchDir
from pipeline.search.halving import Halving
from pipeline.search.one_run import first_keys
from pipeline.search.proposing import Proposer
from pipeline.search.sweep import finished
from pipeline.search.verdicts import Lost, Verdict

_FINALISTS = 4


def fit(
    recipe: Recipe,
    sources: Sequence[str],
    space: Space,
    out: Path,
    engine: Engine,
    watcher: Watcher,
    *,
    seconds: float | None = None,
    more: int = 0,
) -> list[Verdict]:
    """Find a network for each target, and leave its recipe and its file.

    Args:
        recipe: that is varied; its own targets are not read.
        sources: names of the devices, or paths of their files.
        space: what is varied.
        out: folder of the fit, one search at a time.
        engine: where trials run.
        watcher: who is told.
        seconds: after which no candidate is begun any more; files are still made.
        more: candidates that Optuna proposes when those of the family have ended.

    Returns:
        A verdict a target, in their order.

    Raises:
        PareError: the recipe, the data or the network can't be used.
        Interrupted: on Ctrl-C; the same call goes on from there.
    """
    folder = SearchDir(out)
    plan = _plan(recipe, sources, space)
    targets = [target.id for target in plan.targets]
    members = [member.trial for member in plan.members]
    with folder.lock():
        folder.await_workers()
        feed = _feed(recipe, space, plan, folder, seconds, more)
        folder.describe("fit", members, targets=targets)
        _take_in(feed, folder, watcher)
        if not feed.exhausted:
            engine.run(feed, folder, watcher)
        found = {verdict.target: verdict for verdict in plan.refused} | feed.verdicts
        tried = {trial.name: trial for trial in (*members, *feed.trials)}
        folder.describe("fit", list(tried.values()), targets=targets)
        verdicts = [found[target] for target in targets]
        write_json(out / "verdicts.json", [v.model_dump(mode="json") for v in verdicts])
        for source, verdict in zip(sources, verdicts, strict=True):
            _deliver(folder, recipe, source, verdict, feed.members)
    return verdicts


class _Plan(NamedTuple):
    """What is known before anything is trained.

    Attributes:
        sources: names of the targets, or paths of their files.
        hopes: of each candidate for each target.
        refused: verdicts on the targets that no candidate may fit.
    """

    targets: list[Target]
    sources: Sequence[str]
    members: list[Member]
    hopes: dict[str, dict[str, Hope]]
    refused: list[Verdict]
    counting: Counting


def _plan(recipe: Recipe, sources: Sequence[str], space: Space) -> _Plan:
    """Make the family and count it."""
    targets = [Target.load(source) for source in sources]
    _demand_compatible(recipe, targets)
    members = family(recipe, space)
    counting = Counting(targets)
    hopes = {member.trial.name: counting.before(member) for member in members}
    refused = [verdict for t in targets if (verdict := _impossible(t, hopes))]
    return _Plan(targets, sources, members, hopes, refused, counting)


def _feed(
    recipe: Recipe,
    space: Space,
    plan: _Plan,
    folder: SearchDir,
    seconds: float | None,
    more: int,
) -> FitFeed:
    """Return the feed of the candidates and targets that there is any hope for."""
    counting, refused = plan.counting, {verdict.target for verdict in plan.refused}
    left = [
        (target, source)
        for target, source in zip(plan.targets, plan.sources, strict=True)
        if target.id not in refused
    ]
    proposer = Proposer(
        recipe, space, plan.members, lambda m: _whys(counting.before(m)), more
    ) if more and left else None  # fmt: skip
    return FitFeed(
        [
            m
            for m in plan.members
            if any(h.possible for h in plan.hopes[m.trial.name].values())
        ],
        [target for target, _ in left],
        [source for _, source in left],
        Hopes({name: _whys(of) for name, of in plan.hopes.items()}),
        lambda member, figures: _whys(
            counting.after(member, figures["parameters"], figures["macs"])
        ),
        Halving(first=max(1, recipe.train.epochs // 9)),
        finalists=_FINALISTS,
        first_keys=lambda trial: first_keys(trial, folder),
        deadline=None if seconds is None else time.monotonic() + seconds,
        more=proposer,
    )


def _demand_compatible(recipe: Recipe, targets: Sequence[Target]) -> None:
    """Refuse targets that no run could serve together, before anything is trained.

    Raises:
        PareError: they ask for different batches, or one takes no format that is written.
    """
    batch(targets)
    # All exporters together write every format; which ones some write takes loading them.
    written = {EXPORTERS.load(name)[0].FORMAT for name in recipe.export.exporters}
    for target in targets:
        if written and not written & set(target.constraints.formats):
            raise PareError(
                f"{target.id} takes {', '.join(target.constraints.formats)}, and "
                f"export.exporters writes {', '.join(sorted(written))} only."
            )


def _whys(of: dict[str, Hope]) -> dict[str, str]:
    return {target: str(one) for target, one in of.items()}


def _impossible(target: Target, hopes: dict[str, dict[str, Hope]]) -> Verdict | None:
    """Refuse a target that no network of the family can fit, by the one that comes nearest."""
    own = {name: of[target.id] for name, of in hopes.items()}
    if any(one.possible for one in own.values()):
        return None
    name = min(own, key=lambda n: (bool(own[n].why), len(own[n].broken), _excess(own[n])))
    return Verdict(
        target=target.id,
        fits=False,
        why=f"no network of this family fits; the nearest, {name}: {own[name]}",
        counted=True,
        lost=tuple(Lost(trial=n, why=f"by counting: {one}") for n, one in own.items()),
    )


def _excess(one: Hope) -> float:
    """Return by what factor the worst limit is broken."""

    def number(text: str | None) -> float:
        return float((text or "0").removeprefix("at least ").split()[0])

    ratios = [number(c.figure) / max(number(c.limit), 1e-12) for c in one.broken]
    return max(ratios, default=math.inf)


def _take_in(feed: FitFeed, folder: SearchDir, watcher: Watcher) -> None:
    """Tell the feed what is known from an earlier search in the folder."""
    for outcome in finished(feed.possible, folder, also=("stopped",)).values():
        feed.told(outcome)
        watcher.ended(outcome)


def _deliver(
    folder: SearchDir,
    recipe: Recipe,
    source: str,
    verdict: Verdict,
    members: Sequence[Member],
) -> None:
    """Leave a target's recipe, file and verdict in a folder of its own."""
    place = folder.path / "targets" / verdict.target
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write_json(place / "verdict.json", verdict.model_dump(mode="json"))
    if not (verdict.fits and verdict.trial and verdict.file):
        return
    name = verdict.trial.removesuffix(".files")
    chosen = next(member.trial.recipe for member in members if member.trial.name == name)
    own = {"name": f"{recipe.name}-{verdict.target}", "targets": [source]}
    write_text(place / "recipe.toml", chosen.model_copy(update=own).to_toml())
    made = folder.run(verdict.trial) / "5-export"
    for file in made.glob(f"{verdict.file}*"):
        shutil.copy2(file, place / file.name)
