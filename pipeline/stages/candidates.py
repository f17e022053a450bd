"""The candidates for each planned file: every exporter's, from every set of weights."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.plan import Kept, SchemePlan
from pipeline.core.plugins import EXPORTERS
from pipeline.core.signature import Signature
from pipeline.exporters import Exporter, ExportFailure, Images, offered
from pipeline.exporters.accuracy_control import Control, control, mixed
from pipeline.exporters.election import Candidate, Weights, elect
from pipeline.exporters.preprocessing import Baked, with_extremes
from pipeline.stages.context import Context
from pipeline.stages.examining import Examiner, in_turns

if TYPE_CHECKING:
    from torch import nn

_FLOAT = ("float32", "float16")  # schemes whose files compute what the network computes


@dataclass(frozen=True)
class Made:
    """One file of one exporter, and what is known of it."""

    candidate: Candidate
    path: Path | ExportFailure


@dataclass(frozen=True)
class Workshop:
    """Makes files from the networks of a run and examines each.

    Attributes:
        networks: to be exported: ``float``, and where there are such ``per-channel`` and
            ``per-tensor`` with corrected biases, and ``qat`` trained with rounding.
        calibration: images as the files take them.
        ranking: layers by what their quantization costs, the most sensitive first.
        room: folder in which every exporter gets one of its own.
    """

    context: Context
    examiner: Examiner
    networks: Mapping[str, nn.Module]
    signature: Signature
    calibration: Images
    ranking: Sequence[Kept]
    room: Path
    opset: int

    def make(self, plans: Sequence[SchemePlan]) -> dict[str, list[Made]]:
        """Return the candidates for each plan, by the name of its file."""
        found: dict[str, list[Made]] = {plan.file_name: [] for plan in plans}
        for key in exporters(self.context.recipe.export.exporters):
            kind = EXPORTERS.load(key)[0]
            able = []
            for plan in (plan for plan in plans if plan.format == kind.FORMAT):
                if why := offered(kind, plan):
                    found[plan.file_name].append(_refused(key, plan, why))
                else:
                    able.append(_with_method(kind, plan))
            for weights, network, chosen in self._batches(able):
                for plan, path in self._write(key, kind, weights, network, chosen).items():
                    found[plan.file_name].append(self._examined(key, weights, plan, path))
        return {name: timed(made) for name, made in found.items()}

    def hold(
        self, plan: SchemePlan, made: Sequence[Made]
    ) -> tuple[Control, SchemePlan | None, list[Made]]:
        """Leave layers of an integer file in float until it keeps its accuracy.

        Returns:
            What was tried, and, where layers stay in float, the new plan and its file.
        """
        limit = self.context.recipe.quantize.max_accuracy_drop
        assert limit is not None
        mixer = self._mixer(plan)
        paths: dict[int, Path | ExportFailure] = {}

        def drop_with(kept: tuple[Kept, ...]) -> float | None:
            if not kept:
                drops = map(self.examiner.lost, (one.candidate for one in made))
                return min((drop for drop in drops if drop is not None), default=None)
            assert mixer is not None, "without one there is no ranking to keep layers of"
            key, kind = mixer
            chosen = mixed(plan, kept)
            folder = self.room / f"{key}-{len(kept)}-in-float"
            network = self.networks[self._source(chosen)]
            written = self._written(kind, network, [chosen], folder)
            paths[len(kept)] = written[chosen.name]
            return self.examiner.drop(written[chosen.name])

        # With all in float it would be another scheme: the least sensitive layer stays.
        ranking = self.ranking[:-1] if mixer else ()
        found = control(plan.file_name, ranking, limit, drop_with)
        if not found.kept or mixer is None:
            return found, None, []
        chosen = mixed(plan, found.kept)
        path = paths[len(found.kept)]
        return found, chosen, timed([self._examined(mixer[0], "trained", chosen, path)])

    def _mixer(self, plan: SchemePlan) -> tuple[str, type[Exporter]] | None:
        """Return the exporter that can leave single layers in float, if one is in use."""
        asked = plan.model_copy(update={"kept": (Kept(layer="", why=""),)})
        for key in exporters(self.context.recipe.export.exporters):
            kind: type[Exporter] = EXPORTERS.load(key)[0]
            if plan.format == kind.FORMAT and not offered(kind, asked):
                return key, kind
        return None

    def _batches(
        self, plans: Sequence[SchemePlan]
    ) -> list[tuple[Weights, nn.Module, list[SchemePlan]]]:
        """Split plans by the network that they are made from."""
        parts: dict[str, list[SchemePlan]] = {}
        for plan in plans:
            parts.setdefault(self._source(plan), []).append(plan)
        batches: list[tuple[Weights, nn.Module, list[SchemePlan]]] = [
            ("trained", self.networks[name], own) for name, own in parts.items()
        ]
        calibrated = [plan for plan in plans if plan.is_calibrated]
        if "qat" in self.networks and calibrated:
            batches.append(("qat", self.networks["qat"], calibrated))
        return batches

    def _source(self, plan: SchemePlan) -> str:
        """Return the name of the network whose weights a file holds, as they were trained.

        Files that compute what the network computes get it as it is; files of rounded
        weights get biases that make up for it, where there are any.
        """
        name = plan.granularity or "float"
        return "float" if plan.scheme in _FLOAT or name not in self.networks else name

    def _write(
        self,
        key: str,
        kind: type[Exporter],
        weights: Weights,
        network: nn.Module,
        plans: list[SchemePlan],
    ) -> dict[SchemePlan, Path | ExportFailure]:
        folder = self.room / (key if weights == "trained" else f"{key}-{weights}")
        written = self._written(kind, network, plans, folder)
        return {plan: written[plan.name] for plan in plans}

    def _written(
        self, kind: type[Exporter], network: nn.Module, plans: list[SchemePlan], folder: Path
    ) -> Mapping[str, Path | ExportFailure]:
        baked = self.signature.preprocessing == "baked"
        model = Baked(network, self.signature.mean, self.signature.std) if baked else network
        images = with_extremes(self.calibration) if baked else self.calibration
        exporter = kind(opset=self.opset)  # type: ignore[call-arg]
        timeout_s = self.context.recipe.export.converter_timeout_s
        return exporter.write(model, plans, self.signature, images, folder, timeout_s)

    def _examined(
        self, key: str, weights: Weights, plan: SchemePlan, path: Path | ExportFailure
    ) -> Made:
        return Made(self.examiner.examine(key, weights, plan, path), path)


def timed(made: Sequence[Made]) -> list[Made]:
    """Return candidates with their times, those of files that run taken in turns."""
    paths = [one.path for one in made if isinstance(one.path, Path) and one.candidate.bytes]
    times = dict(zip(paths, in_turns(paths), strict=True))
    return [
        Made(one.candidate.model_copy(update={"inference": times.get(one.path)}), one.path)
        if isinstance(one.path, Path)
        else one
        for one in made
    ]


def exporters(asked: Sequence[str]) -> list[str]:
    """Return the keys of the exporters to use, in the order in which they are listed."""
    listed = list(EXPORTERS.plugins())
    if not asked:
        return listed
    named = {*asked, *(name.replace("-", "_") for name in asked)}
    return [key for key in listed if key in named] + [key for key in asked if ":" in key]


def choose(plan: SchemePlan, made: Sequence[Made], out: Path) -> dict[str, Any]:
    """Elect one of the candidates for a plan and move it to where it is offered.

    Of candidates that are all wrong the first is kept aside, with the suffix ``.rejected``.

    Returns:
        What is known of the file, for ``files.json``.
    """
    candidates = [one.candidate for one in made]
    election = elect(candidates)
    wrong = next((i for i, c in enumerate(candidates) if c.state == "wrong"), None)
    for number, one in enumerate(made):
        if isinstance(one.path, ExportFailure):
            continue
        if number == election.winner:
            _move(one.path, out / plan.file_name)
        elif one.candidate.state == "wrong":
            aside = out if election.winner is None and number == wrong else one.path.parent
            _move(one.path, aside / f"{plan.file_name}.rejected")
    shown = election.winner if election.winner is not None else wrong
    best = candidates[shown if shown is not None else 0] if candidates else None
    return {
        "file": plan.file_name,
        "format": plan.format,
        "scheme": plan.scheme,
        "variant": plan.variant,
        "dtype": plan.dtype,
        "granularity": plan.granularity,
        "input_dtype": plan.input_dtype,
        "output_dtype": plan.output_dtype,
        "kept": [one.model_dump() for one in plan.kept],
        "candidates": [candidate.model_dump(mode="json") for candidate in candidates],
        "elected": election.why,
        **_of_best(best, plan, election.why, offered=election.winner is not None),
    }


def _of_best(
    best: Candidate | None, plan: SchemePlan, why: str, *, offered: bool
) -> dict[str, Any]:
    """Return the figures of the candidate that stands for a plan."""
    if best is None:
        return {"state": "refused", "why": f"no exporter in use writes {plan.format}"}
    facts = best.model_dump(mode="json", exclude={"file", "why", "state"})
    return {
        **{key: value for key, value in facts.items() if value is not None},
        "state": best.state,
        "why": plan.why if offered else why,
    }


def _move(path: Path, to: Path) -> None:
    """Move a file with what stands beside it."""
    for suffix in (".json", ".data", ""):
        beside = path.with_name(path.name + suffix) if suffix else path
        if beside.is_file():
            shutil.move(beside, to.with_name(to.name + suffix) if suffix else to)


def _refused(key: str, plan: SchemePlan, why: str) -> Made:
    failure = ExportFailure(name=plan.name, reason=why, log=Path())
    refused = Candidate(exporter=key, state="refused", why=why, file=plan.file_name)
    return Made(refused, failure)


def _with_method(kind: type[Exporter], plan: SchemePlan) -> SchemePlan:
    """Return the plan with a way to take ranges that the exporter offers."""
    if plan.method is None or plan.method in kind.METHODS:
        return plan
    return plan.model_copy(update={"method": "min-max"})


def as_taken(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Images:
    """Return the raw pixels of normalised images ``[n, c, h, w]``."""
    shape = (1, -1, 1, 1)
    pixels = images * np.reshape(std, shape) + np.reshape(mean, shape)
    return np.asarray(np.rint(pixels * 255), np.float32)
