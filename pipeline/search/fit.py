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
from typing import Any

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
    targets = [Target.load(source) for source in sources]
    _demand_compatible(recipe, targets)
    members = family(recipe, space)
    counting = Counting(targets)
    hopes = {member.trial.name: counting.before(member) for member in members}
    refused = [_impossible(t, members, hopes) for t in targets]
    left = [t for t, verdict in zip(targets, refused, strict=True) if verdict is None]
    useful = [m for m in members if any(h.possible for h in hopes[m.trial.name].values())]
    with folder.lock():
        folder.await_workers()
        feed = FitFeed(
            useful,
            left,
            [
                source
                for source, target in zip(sources, targets, strict=True)
                if target in left
            ],
            Hopes({name: _whys(of) for name, of in hopes.items()}),
            lambda member, figures: _whys(
                counting.after(member, figures["parameters"], figures["macs"])
            ),
            Halving(first=max(1, recipe.train.epochs // 9)),
            finalists=_FINALISTS,
            first_keys=lambda trial: first_keys(trial, folder),
            deadline=None if seconds is None else time.monotonic() + seconds,
            more=Proposer(recipe, space, members, lambda m: _whys(counting.before(m)), more)
            if more
            else None,
        )
        folder.describe("fit", [member.trial for member in members], targets=_names(targets))
        _take_in(feed, folder, watcher)
        if left:
            engine.run(feed, folder, watcher)
        found = {verdict.target: verdict for verdict in refused if verdict} | feed.verdicts
        folder.describe("fit", _all_trials(members, feed), targets=_names(targets))
        verdicts = [found[target.id] for target in targets]
        write_json(out / "verdicts.json", [v.model_dump(mode="json") for v in verdicts])
        for source, verdict in zip(sources, verdicts, strict=True):
            _deliver(folder, recipe, source, verdict, [*members, *feed.members])
    return verdicts


def _demand_compatible(recipe: Recipe, targets: Sequence[Target]) -> None:
    """Refuse targets that no run could serve together, before anything is trained.

    Raises:
        PareError: they ask for different batches, or one takes no format that is written.
    """
    batch(targets)
    names = recipe.export.exporters or list(EXPORTERS.plugins())
    written = {EXPORTERS.load(name)[0].FORMAT for name in names}
    for target in targets:
        if not written & set(target.constraints.formats):
            raise PareError(
                f"{target.id} takes {', '.join(target.constraints.formats)}, and "
                f"export.exporters writes {', '.join(sorted(written))} only."
            )


def _names(targets: Sequence[Target]) -> list[str]:
    return [target.id for target in targets]


def _all_trials(members: Sequence[Member], feed: FitFeed) -> list[Any]:
    known = {trial.name: trial for trial in feed.trials}
    return [*(m.trial for m in members if m.trial.name not in known), *known.values()]


def _whys(of: dict[str, Hope]) -> dict[str, str]:
    return {target: str(one) for target, one in of.items()}


def _impossible(
    target: Target, members: Sequence[Member], hopes: dict[str, dict[str, Hope]]
) -> Verdict | None:
    """Refuse a target that no network of the family can fit, by the one that comes nearest."""
    own = {member.trial.name: hopes[member.trial.name][target.id] for member in members}
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
