"""Runs stages in their order, skips those whose result is there, keeps what is finished."""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.artifact import Artifact, Provenance, git_commit, sha256, versions
from pipeline.core.epoch import Epoch
from pipeline.core.errors import Interrupted, OverBudget, PareError
from pipeline.core.plugins import EXPORTERS, QUANTIZERS
from pipeline.core.recipe import Recipe, check_listed, fingerprint
from pipeline.core.record import digest
from pipeline.core.rundir import RunDir, is_full, read_json, write_text
from pipeline.core.target import Constraints, Target
from pipeline.core.wanted import batch, opset, wanted
from pipeline.stages import STAGES, Stage, check_order, named
from pipeline.stages.context import Context, Shared
from pipeline.stages.sources import code
from pipeline.stages.timing import TIMINGS, profile_paths
from pipeline.tracking import Tracking

_PACKAGE = Path(__file__).parent.parent


class Reporter(Protocol):
    """Where a run says what it does."""

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Say that a stage is finished, or skipped (no seconds)."""

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Say how far the training is, after each epoch."""

    def warn(self, text: str) -> None:
        """Say what the user should know although the run goes on."""


class Quiet:
    """Says nothing."""

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Say nothing."""

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Run:
    """A run's folder and what its stages left, by stage name.

    Attributes:
        report: the content of ``report.json``; empty if the run stopped before it.
        executed: names of the stages that really ran this time.
    """

    path: Path
    artifacts: dict[str, Artifact]
    report: dict[str, Any]
    executed: list[str]


class Runner:
    """One recipe in one folder."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path | str | None,
        reporter: Reporter,
        *,
        shelf: Path | None = None,
    ) -> None:
        """Take a recipe.

        Args:
            recipe: what is done.
            out: folder of the run; ``runs/<recipe name>`` by default.
            reporter: who is told.
            shelf: folder of what runs of one search have in common.
        """
        check_order()
        # Here and not in the recipe, which every stage reads: what it names by room is taken
        # for the code of each.
        for room, names in (
            (QUANTIZERS, recipe.quantize.schemes),
            (EXPORTERS, recipe.export.exporters),
        ):
            for name in names:
                check_listed(room, name, "recipe")
        self.recipe = recipe
        self.targets = [Target.load(name) for name in recipe.targets]
        self.dir = RunDir(Path(out) if out else Path("runs") / recipe.name)
        self._shelf = shelf
        self.reporter = Tracking(recipe, self.dir.path, reporter)
        self._sources = fingerprint(recipe)
        self._keys: dict[str, str] = {}

    def run(
        self,
        *,
        fresh: bool = False,
        until: str | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> Run:
        """Run the stages that are not finished, up to ``until``, then write the report.

        Args:
            fresh: believe nothing that is there; a stage's folder is replaced when its new
                result is whole.
            until: name of the last stage to run.
            prepare: called first, when the folder is nobody else's.

        Raises:
            PareError: what a stage refused; finished stages stay as they are.
            Interrupted: on Ctrl-C.
        """
        last = named(until).name if until else STAGES[-1].name
        with self.dir.lock(), _told_if_full(self.dir.path), self.reporter.following():
            prepare()
            if fresh:
                shutil.rmtree(self.dir.path / TIMINGS, ignore_errors=True)
            artifacts, executed = self._run_stages(last, fresh=fresh)
            self.reporter.finish(
                {name: artifact.metrics for name, artifact in artifacts.items()},
                self.dir.folder(1, "train") / "history.json",
            )
            if until:
                self._warn_of_old_report(artifacts)
                return Run(self.dir.path, artifacts, {}, executed)
            report = self._report(artifacts, rewrite=bool(executed))
        return Run(self.dir.path, artifacts, report, executed)

    def _run_stages(self, last: str, *, fresh: bool) -> tuple[dict[str, Artifact], list[str]]:
        artifacts: dict[str, Artifact] = {}
        executed = []
        parent: Artifact | None = None
        context = Context(
            self.recipe, self.targets, self.reporter, Shared(self.recipe), shelf=self._shelf
        )
        if not self._recipe_file.is_file():
            self._save_recipe()
        for number, stage in enumerate(STAGES, 1):
            key = self.key(number)
            found = None if fresh else self.dir.finished(number, stage.name, key)
            if found and found.follows(parent):
                self.reporter.stage(number, stage.name, str(found.metrics["summary"]), None)
            else:
                found = self._execute(number, stage, key, context, parent, fresh=fresh)
                executed.append(stage.name)
                self._save_recipe()
            artifacts[stage.name] = parent = found
            if stage.name == last:
                break
        self._save_recipe()
        return artifacts, executed

    def key(self, number: int) -> str:
        """Return the identity of a stage's result: its options, inputs, targets and code."""
        stage = STAGES[number - 1]
        if stage.name not in self._keys:
            self._keys[stage.name] = digest(
                {
                    "stage": stage.name,
                    "recipe": self.recipe.part(stage.recipe),
                    "sources": self._sources,
                    "targets": self._of_targets(stage),
                    "on_devices": self._on_devices(stage),
                    "code": code(stage.name, _PACKAGE),
                    "parent": self.key(number - 1) if number > 1 else None,
                }
            )
        return self._keys[stage.name]

    def _of_targets(self, stage: Stage) -> Any:
        if stage.targets == "all":
            return [target.model_dump(mode="json") for target in self.targets]
        if stage.targets == "wanted":
            return [entry.model_dump() for entry in wanted(self.targets)]
        if stage.targets == "form":
            return [batch(self.targets), opset(self.targets, self.recipe.export.opset)]
        return None

    def _on_devices(self, stage: Stage) -> Any:
        """Return the digests of what devices measured, for the stage that judges by it."""
        if stage.targets != "all":
            return None
        paths = [p for target in self.targets for p in profile_paths(self.dir.path, target)]
        return [sha256(path) for path in paths]

    def _execute(
        self,
        number: int,
        stage: Stage,
        key: str,
        context: Context,
        parent: Artifact | None,
        *,
        fresh: bool,
    ) -> Artifact:
        folder = self.dir.open_partial(
            number, stage.name, key, resumable=stage.resumable and not fresh
        )
        inputs = {
            s.name: self.dir.folder(n, s.name) for n, s in enumerate(STAGES[: number - 1], 1)
        }
        began = time.monotonic()
        module = importlib.import_module(f"pipeline.stages.{stage.name}")
        try:
            metrics: dict[str, Any] = module.run(context.at(inputs, folder))
            seconds = time.monotonic() - began
            artifact = Artifact(
                kind=stage.produces,
                files=self.dir.files(number, stage.name),
                metrics=metrics,
                provenance=self._provenance(stage, key, parent, seconds),
            )
            self.dir.commit(number, stage.name, artifact)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted in stage {stage.name!r}. Finished stages are kept in "
                f"{self.dir.path}; run the same command again to go on from there."
            ) from None
        self.reporter.stage(number, stage.name, str(metrics["summary"]), seconds)
        return artifact

    def _provenance(
        self, stage: Stage, key: str, parent: Artifact | None, seconds: float
    ) -> Provenance:
        return Provenance(
            stage=stage.name,
            key=key,
            parent=parent.provenance.key if parent else None,
            parent_record=parent.digest if parent else None,
            parameters=self.recipe.part(stage.recipe),
            seed=self.recipe.seed,
            git_commit=git_commit(_PACKAGE),
            versions=versions(),
            seconds=round(seconds, 3),
            finished_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def _recipe_file(self) -> Path:
        return self.dir.path / "recipe.toml"

    def _save_recipe(self) -> None:
        """Write the recipe beside its results; one that achieved nothing replaces none."""
        text = self.recipe.to_toml()
        path = self._recipe_file
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def _warn_of_old_report(self, artifacts: dict[str, Artifact]) -> None:
        """Say from which stage on the report is of results that were replaced."""
        reported = self._old_report().get("keys", {})
        names = [stage.name for stage in STAGES]
        for name, artifact in artifacts.items():
            if reported and reported.get(name) != artifact.provenance.key:
                old = ", ".join(names[names.index(name) :])
                self.reporter.warn(
                    f"the report in {self.dir.path} describes the previous results of {old}; "
                    f"`pare run {self.dir.path}` renews it."
                )
                return

    def _report(self, artifacts: dict[str, Artifact], *, rewrite: bool) -> dict[str, Any]:
        keys = {name: artifact.provenance.key for name, artifact in artifacts.items()}
        whole = all(
            (self.dir.path / f"report.{suffix}").is_file() for suffix in ("html", "md")
        )
        old = self._old_report()
        if not rewrite and whole and old.get("keys") == keys:
            return old
        from pipeline.report import write

        return write(self.dir.path)

    def _old_report(self) -> dict[str, Any]:
        try:
            return dict(read_json(self.dir.path / "report.json"))
        except (OSError, ValueError, TypeError):  # none yet, or harmed: it is written again
            return {}


@contextmanager
def _told_if_full(folder: Path) -> Iterator[None]:
    """Turn the failure to write any more into a sentence."""
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise PareError(
                f"the disk is full: nothing more could be written to {folder}. Finished "
                "stages are kept. Free some space and run the same command again."
            ) from error
        raise


def demand_fit(report: dict[str, Any]) -> None:
    """Refuse a report in which a target has no file that fits.

    Raises:
        OverBudget: a line for each such target, with every limit that its nearest file
            breaks.
    """
    broken = [entry for entry in report.get("targets", []) if not entry["chosen"]]
    if broken:
        raise OverBudget("\n".join(_refusal(entry) for entry in broken))


def demand_files(files: Sequence[dict[str, Any]], targets: Sequence[Target]) -> None:
    """Refuse an export that left a target without any file of a form that it takes.

    Args:
        files: as the export stage records them.
        targets: of the run.

    Raises:
        OverBudget: a line for each such target, with what became of its files.
    """
    lines = []
    for target in targets:
        own = [file for file in files if _is_taken(file, target.constraints)]
        if not any(f["state"] == "made" for f in own):
            told = "; ".join(f"{f['file']} {f['state']}: {f['why']}" for f in own)
            lines.append(
                f"{target.id}: no file of a form that it takes ({told or 'none planned'})"
            )
    if lines:
        raise OverBudget("\n".join(lines))


def _is_taken(file: dict[str, Any], limits: Constraints) -> bool:
    """Tell whether a target takes files of this form, whatever is in them."""
    grains, borders = limits.int8_granularity, limits.io_dtypes
    return (
        file["format"] in limits.formats
        and file["dtype"] in limits.dtypes
        and (file["dtype"] != "int8" or not grains or file["granularity"] in grains)
        and (not borders or {file["input_dtype"], file["output_dtype"]} <= set(borders))
    )


def _refusal(target: dict[str, Any]) -> str:
    nearest = [row for row in target["files"] if row["file"] == target["nearest"]]
    limits = [
        f"{check['name'].partition(' (')[0]} {check['figure']}, limit {check['limit']}"
        for row in nearest
        for check in row["checks"]
        if check["passed"] is False
    ]
    return f"{target['id']}: no file fits ({'; '.join(limits) or 'there is none'})"
