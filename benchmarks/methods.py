"""Every method on the same images, seeds and number of epochs, at several pruning rates.

    python benchmarks/methods.py --size cpu --data image-folder:PATH [--workers 2]
    python benchmarks/methods.py --size cpu --table     # table and plot of what is there

Every cell is a trial of a sweep, an ordinary run up to the pruning; nothing is fine-tuned
after it unless the method's own epochs say so, and all cells of one network have the same
number of epochs in all; only those of a teacher come on top. ``PATH`` holds CIFAR-10 as JPEG
in train/CLASS/ and test/CLASS/.

A finished cell is a line of benchmarks/results/methods_SIZE.csv, under the fingerprint of its
recipe: a benchmark that was stopped goes on where it was, and a changed recipe is run anew.
The accuracies are of the pruned network on the whole test split.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import Recipe
from pipeline.core.artifact import versions
from pipeline.core.record import digest
from pipeline.core.rundir import write_text
from pipeline.methods import create
from pipeline.search.board import Quiet
from pipeline.search.engine import chosen
from pipeline.search.folder import SearchDir
from pipeline.search.sweep import sweep
from pipeline.search.trial import Outcome, Trial

RESULTS = Path(__file__).parent / "results"
FINETUNED = {"name": "magnitude", "finetune_epochs": "half"}
DENSE = "dense"

#: Methods that are told the rate, by the name they have in the table. ``{half}`` epochs are
#: half of the cell's, so that training and fine-tuning together are no longer than the rest.
RATED: dict[str, dict[str, Any]] = {
    "reparam": {"name": "reparam"},
    "reparam, paper": {"name": "reparam", "mode": "paper"},
    "magnitude": {"name": "magnitude"},
    "magnitude + fine-tuning": {**FINETUNED, "finetune_lr_factor": 1.0},
    "magnitude + fine-tuning, rate / 5": {**FINETUNED, "finetune_lr_factor": 0.2},
    "gradual": {"name": "gradual"},
    "continuous": {"name": "continuous"},
    "lottery": {"name": "lottery", "reset": "rewind"},
}
#: What the parts of the default reparam give, as options of the method and the training:
#: each line leaves one out, or adds the teacher, whose own epochs come on top.
ABLATION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ranked by magnitude": ({"name": "reparam", "scale_free": False}, {}),
    "running averages of batch norm": ({"name": "reparam"}, {"recalibration_batches": 0}),
    "soft to the end": ({"name": "reparam", "soft": 1.0}, {}),
    "soft for 3/4 of the epochs": ({"name": "reparam", "soft": 0.75}, {}),
    "no soft gates (gradual, ranked by LAMP)": ({"name": "gradual", "scale_free": True}, {}),
    "with the dense network as teacher": ({"name": "reparam"}, {"teacher": DENSE}),
}
#: Methods at the rate that is natural to them, with one seed: kept weights, options.
NATURAL: dict[str, tuple[float, dict[str, Any]]] = {
    "supermask": (1.0, {"name": "supermask", "rescale": True, "signed_constant": True}),
    "aslp": (1.0, {"name": "aslp"}),
    "edge_popup": (0.5, {"name": "edge_popup"}),
    "hard_concrete": (0.1, {"name": "hard_concrete"}),
    "filter_norm": (0.5, {"name": "filter_norm", "finetune_epochs": "half"}),
}


@dataclass(frozen=True)
class Cell:
    """One run of the comparison.

    Attributes:
        label: of the method in the table.
        weights: kept fraction.
        options: of the method table, with its name.
        train: options of the training that differ; the teacher is a cell's label.
    """

    network: str
    label: str
    weights: float
    seed: int
    epochs: int
    options: dict[str, Any] = field(hash=False)
    train: dict[str, Any] = field(hash=False, default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its run."""
        parts = (self.network, self.label, self.weights, self.seed)
        return "-".join(re.sub(r"[^\w.]+", "_", str(part)) for part in parts)

    @property
    def teacher(self) -> Cell | None:
        """The cell whose network it learns from."""
        if "teacher" not in self.train:
            return None
        label = self.train["teacher"]
        return Cell(self.network, label, 1.0, self.seed, self.epochs, {"name": label})

    def recipe(self, data: dict[str, Any], runs: Path = Path()) -> Recipe:
        """Return the recipe of the run; fine-tuning takes half of its epochs."""
        method, epochs = dict(self.options), self.epochs
        if method.get("finetune_epochs") == "half":
            method["finetune_epochs"] = epochs // 2
            epochs -= epochs // 2
        train = {**TRAIN, **self.train, "epochs": epochs}
        if self.teacher:
            train["teacher"] = str(runs / self.teacher.folder / "1-train/model.safetensors")
        return Recipe.model_validate(
            {
                "name": "methods",
                "seed": self.seed,
                "targets": [],
                "model": {"name": self.network},
                "data": data,
                "method": method,
                "budget": {"weights": self.weights},
                "train": train,
            }
        )


@dataclass(frozen=True)
class Size:
    """A comparison that a kind of machine can make in a night.

    Attributes:
        said: the images and the machine, in words.
    """

    said: str
    cells: tuple[Cell, ...]
    data: dict[str, Any]


TRAIN = {
    "batch_size": 64,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "precision": "bf16-mixed",
    "channels_last": True,
    "deterministic": False,
}


def cells(
    network: str,
    epochs: int,
    labels: Iterable[str],
    rates: Iterable[float],
    seeds: Iterable[int],
) -> Iterator[Cell]:
    """Yield the cells of one network, all methods of a seed before the next seed."""
    for seed in seeds:
        if DENSE in labels:
            yield Cell(network, DENSE, 1.0, seed, epochs, {"name": "dense"})
        for weights in rates:
            for label in (name for name in labels if name != DENSE):
                yield Cell(network, label, weights, seed, epochs, RATED[label])


def ablation(network: str, epochs: int, rates: Iterable[float]) -> Iterator[Cell]:
    """Yield the cells that leave out one part of the default each, with one seed."""
    for weights in rates:
        for label, (options, train) in ABLATION.items():
            yield Cell(network, label, weights, 0, epochs, options, train)


def natural(network: str, epochs: int) -> Iterator[Cell]:
    """Yield the cells of the methods that are compared at one rate only."""
    for label, (weights, options) in NATURAL.items():
        yield Cell(network, label, weights, 0, epochs, options)


RIVALS = (
    DENSE,
    "reparam",
    "magnitude + fine-tuning",
    "gradual",
)
EVERY = (DENSE, *RATED)
SLOWER = "magnitude + fine-tuning, rate / 5"
OTHERS = tuple(label for label in RATED if label not in (*RIVALS, SLOWER))
RATES = (0.05, 0.01, 0.10, 0.02)
SIZES = {
    "cpu": Size(
        said="10,000 training images, one of ten held out, on a CPU, bf16-mixed",
        # In this order what matters most is there first.
        cells=(
            *cells("resnet8", 12, RIVALS, RATES, seeds=range(3)),
            *ablation("resnet8", 12, (0.05, 0.01)),
            *cells("resnet8", 12, OTHERS, RATES, seeds=[0]),
            *natural("resnet8", 12),
            *cells("conv4", 6, RIVALS, (0.05, 0.01), seeds=[0]),
            *cells("resnet8", 12, OTHERS, RATES, seeds=[1, 2]),
            *cells("resnet8", 12, [SLOWER], RATES, seeds=[0]),
        ),
        data={"per_class": 1000, "validation_fraction": 0.1},
    ),
    "gpu": Size(
        said="50,000 training images, one of ten held out, on a GPU, bf16-mixed",
        cells=(
            *cells("conv4", 60, EVERY, (0.10, 0.05, 0.03, 0.02, 0.01), seeds=range(3)),
            *cells("resnet18", 60, EVERY, (0.10, 0.05, 0.03, 0.02, 0.01), seeds=range(3)),
            *cells("vgg19", 60, EVERY, (0.10, 0.05, 0.03, 0.02, 0.01), seeds=range(3)),
            *natural("conv4", 60),
        ),
        data={"validation_fraction": 0.1},
    ),
}
FIELDS = (
    "network", "method", "weights", "seed", "epochs", "accuracy", "accuracy_before",
    "kept", "effective", "dead_channels", "instability", "train_seconds", "test_images",
    "recipe",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--workers", type=int, help="as many as there are cores")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/methods"))
    parser.add_argument("--only", nargs="*", help="labels of methods, default all")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    source = RESULTS / f"methods_{options.size}.csv"
    if not options.table:
        work(options, source)
    rows = current(read(source), SIZES[options.size])
    write_text(RESULTS / f"methods_{options.size}.md", table(rows, options.size))
    plot(rows, RESULTS / f"methods_{options.size}.svg")
    print(table(rows, options.size))


def work(options: argparse.Namespace, source: Path) -> None:
    """Run what has no line yet, as one sweep; a line is written as soon as its cell ends."""
    size = SIZES[options.size]
    data = {"name": options.data, **size.data}
    done = {row["recipe"] for row in read(source)}
    wanted = [c for c in size.cells if not options.only or c.label in options.only]
    open_cells = [c for c in wanted if fingerprint(c, data) not in done]
    print(f"{len(wanted) - len(open_cells)} cells done, {len(open_cells)} to go", flush=True)
    # What others learn from is trained before them.
    teachers = [cell.teacher for cell in open_cells if cell.teacher]
    cells_of = {cell.folder: cell for cell in (*teachers, *open_cells)}
    folder = SearchDir(options.runs.resolve())
    trials = [trial(cell, data, folder) for cell in cells_of.values()]
    sweep(trials, folder.path, chosen(options.workers, None), Rows(cells_of, data, source))


def trial(cell: Cell, data: dict[str, Any], folder: SearchDir) -> Trial:
    """Return a cell as a trial of a sweep, behind the one it learns from."""
    after = (cell.teacher.folder,) if cell.teacher else ()
    settings = {"method": cell.label, "budget.weights": cell.weights, "seed": cell.seed}
    recipe = cell.recipe(data, folder.path / "trials")
    return Trial(
        name=cell.folder, settings=settings, recipe=recipe, until="prune", after=after
    )


class Rows(Quiet):
    """Writes the line of each cell that ends, and says which ones fail."""

    def __init__(self, cells: dict[str, Cell], data: dict[str, Any], source: Path) -> None:
        self.cells, self.data, self.source = cells, data, source

    def ended(self, outcome: Outcome) -> None:
        cell = self.cells[outcome.trial]
        if outcome.state != "finished":
            print(f"FAILED {cell.label} {cell.weights} {cell.seed}: {outcome.why}", flush=True)
            return
        row = line(cell, self.data, outcome.figures)
        write(self.source, [*(r for r in read(self.source) if key(r) != key(row)), row])
        print({name: row[name] for name in FIELDS[:8]}, flush=True)


def current(rows: list[dict[str, Any]], size: Size) -> list[dict[str, Any]]:
    """Return the lines of the recipes that are compared now; others are of the past."""
    wanted = {fingerprint(cell, {"name": "", **size.data}) for cell in size.cells}
    return [row for row in rows if row["recipe"] in wanted]


def fingerprint(cell: Cell, data: dict[str, Any]) -> str:
    """Return what a line stands for: the recipe with every default, wherever its files are."""
    recipe = cell.recipe({**data, "name": "image-folder:"})
    written = recipe.model_dump(mode="json", include={"seed", "model", "data", "train"})
    method = create(recipe.method, recipe.budget, (3, 32, 32))
    options = method.params.model_dump(mode="json")
    return digest([written, cell.options["name"], options, cell.weights])[:12]


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in FIELDS[:4])


def line(cell: Cell, data: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    """Return the line of a cell from what its run reached."""
    weights = figures["weights"]
    return {
        "network": cell.network,
        "method": cell.label,
        "weights": cell.weights,
        "seed": cell.seed,
        "epochs": figures["epochs"],
        "accuracy": round(figures["accuracy"], 4),
        "accuracy_before": round(figures["accuracy_before"], 4),
        "kept": round(figures["kept_weights"] / weights, 5),
        "effective": round(figures["effective_weights"] / weights, 5),
        "dead_channels": figures["dead_channels"],
        "instability": round(figures["instability"], 4),
        "train_seconds": round(figures["train_seconds"]),
        "test_images": figures["test_images"],
        "recipe": fingerprint(cell, data),
    }


def read(source: Path) -> list[dict[str, Any]]:
    if not source.is_file():
        return []
    with source.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(source: Path, rows: list[dict[str, Any]]) -> None:
    """Write all lines, sorted, so that two machines leave the same file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=key))
    write_text(source, text.getvalue())


def table(rows: list[dict[str, Any]], size: str) -> str:
    """Return top-1 in % for each network, method and rate as Markdown."""
    parts = ["# Methods compared", "", conditions(rows, size)]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        parts += ["", *rated_table(network, own)]
        parts += ablation_table(network, own)
        parts += natural_table(network, own)
    return "\n".join(parts) + "\n"


def conditions(rows: list[dict[str, Any]], size: str) -> str:
    networks = dict.fromkeys((row["network"], row["epochs"]) for row in rows)
    epochs = ", ".join(f"{network} {count} epochs" for network, count in networks)
    return (
        f"CIFAR-10, size `{size}`: {SIZES[size].said}. Top-1 of the pruned network in % on "
        f"{int(rows[0]['test_images']):,} test images, mean and standard deviation over the "
        f"seeds (their number in brackets); {epochs} in all for every method, fine-tuning "
        "and rounds included (a teacher's come on top). Made by `python "
        f"benchmarks/methods.py`, torch {versions()['torch']}."
    )


def rated_table(network: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return one line a method, one column a rate."""
    rates = sorted(
        {r["weights"] for r in rows if r["method"] in RATED}, key=float, reverse=True
    )
    heads = " | ".join(f"{float(rate):.0%} kept" for rate in rates)
    lines = [f"| {network} | {heads} |", f"|---|{'---|' * len(rates)}"]
    for label in ("dense", *RATED):
        own = [row for row in rows if row["method"] == label]
        if own and label == "dense":
            lines.append(f"| dense, all kept: {top1(own)} |{' |' * len(rates)}")
        elif own:
            cells = (top1([r for r in own if r["weights"] == rate]) for rate in rates)
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def ablation_table(network: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the default of reparam and what is left of it without each of its parts."""
    tried = [row for row in rows if row["method"] in ABLATION]
    if not tried:
        return []
    rates = sorted({row["weights"] for row in tried}, key=float, reverse=True)
    seeds = {row["seed"] for row in tried}
    heads = " | ".join(f"{float(rate):.0%} kept" for rate in rates)
    lines = [f"| {network}, the parts of reparam | {heads} |", f"|---|{'---|' * len(rates)}"]
    for label in ("reparam", *ABLATION):
        own = [r for r in rows if r["method"] == label and r["seed"] in seeds]
        cells = (top1([r for r in own if r["weights"] == rate]) for rate in rates)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return ["", *lines]


def natural_table(network: str, rows: list[dict[str, Any]]) -> list[str]:
    """Return the methods that were tried at one rate, their own."""
    own = [row for row in rows if row["method"] in NATURAL]
    if not own:
        return []
    lines = [f"| {network}, at a rate of their own | kept | effective | top-1 |"]
    lines += ["|---|---|---|---|"]
    for row in own:
        kept, effective = float(row["kept"]), float(row["effective"])
        lines.append(f"| {row['method']} | {kept:.1%} | {effective:.1%} | {top1([row])} |")
    return ["", *lines]


def top1(rows: list[dict[str, Any]]) -> str:
    """Return mean, standard deviation and number of the seeds."""
    values = [100 * float(row["accuracy"]) for row in rows]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread} ({len(values)})"


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    """Draw top-1 against the kept fraction, the range over the seeds as a band."""
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(5 * len(networks), 3.6), layout="constrained")
    for axes, network in zip(
        figure.subplots(1, len(networks), squeeze=False)[0], networks, strict=True
    ):
        for label in RATED:
            own = [r for r in rows if (r["network"], r["method"]) == (network, label)]
            curve(axes, label, own)
        axes.set(title=network, xlabel="kept weights, %", ylabel="top-1, %", xscale="log")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(target, metadata={"Date": None})


def curve(axes: Any, label: str, rows: list[dict[str, Any]]) -> None:
    """Draw one method's mean over the seeds and their range."""
    rates = sorted({float(row["weights"]) for row in rows})
    if not rates:
        return
    found = [
        [100 * float(r["accuracy"]) for r in rows if float(r["weights"]) == rate]
        for rate in rates
    ]
    x = [100 * rate for rate in rates]
    (line,) = axes.plot(x, [statistics.mean(v) for v in found], marker="o", ms=3, label=label)
    low, high = [min(v) for v in found], [max(v) for v in found]
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15)


if __name__ == "__main__":
    main()
