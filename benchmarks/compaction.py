"""Compaction beside torch-simplify and Torch-Pruning, on the same pruned networks.

    pip install -e '.[peers]'
    python benchmarks/compaction.py --size small            # a few networks of 64x64 pixels
    python benchmarks/compaction.py --size full --scaling   # all of them, and time by depth
    python benchmarks/compaction.py --size full --tools --scaling      # time by depth alone
    python benchmarks/compaction.py --size full --table     # table and plots of what is there

Every tool gets a copy of the same network in a process of its own, so that one that crashes,
hangs or takes all memory leaves a line that says so and nothing more. A finished line stands
in benchmarks/results/compaction.csv (compaction_small.csv) under the version of its tool: a
benchmark that was stopped goes on where it was, and what a new version of a tool did is
measured anew. This project's version is a digest of its graph code.

Outputs are compared with those of the pruned network: float32, evaluation mode, two images of
noise; a largest difference above 1e-5 of the largest output is wrong. One function counts
parameters and multiply-accumulates of convolutions and linear layers for all tools, and one
exporter writes the ONNX files (torch.onnx, dynamo=False: the other cannot export the layers
of torch-simplify). Latency is onnxruntime's on one thread, batch 1, the pruned network and
the compacted one in turns.
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import pipeline.graph
from pipeline.core.artifact import versions
from pipeline.core.rundir import write_text
from pipeline.graph.equivalence import TOLERANCE

RESULTS = Path(__file__).parent / "results"
CLASSES = 100
LIMIT = TOLERANCE[torch.float32]
OURS = "this project"
EVEN = "this project, multiples of 8"
SIMPLIFY = "torch-simplify"
GROUPS = "Torch-Pruning"
WHOLE = "Torch-Pruning, whole groups"
#: The distribution each tool comes from.
PACKAGES = {SIMPLIFY: "torch-simplify", GROUPS: "torch-pruning", WHOLE: "torch-pruning"}
COLOURS = {
    OURS: "tab:blue",
    EVEN: "tab:cyan",
    SIMPLIFY: "tab:orange",
    GROUPS: "tab:red",
    WHOLE: "tab:purple",
}
FILTERS = "50 % of the filters"
ZEROED = "50 % of the channels, all zero"
PRUNINGS = {
    FILTERS: "whole filters at random, also of depthwise convolutions; biases and batch norms "
    "stay as they are",
    ZEROED: "the same, and bias, scale and shift of the channel are zero too; depthwise "
    "filters go with the channel they read",
    "90 % of the weights": "single weights by magnitude in each layer, the filters of unequal "
    "size",
    "98 % of the weights": "likewise",
}
RATES = {"90 % of the weights": 0.90, "98 % of the weights": 0.98}
#: Options of torchvision's builders that differ from the default.
BUILD: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
}
#: Counted up where networks or prunings change: lines of another count are of the past.
PROTOCOL = "1"
SCALING_DEPTHS = (8, 14, 20, 32, 44, 56, 74, 92, 110, 164, 218)
SCALING_TURNS = 5
FIELDS = (
    "network", "image", "pruning", "tool", "version", "verdict", "difference", "error",
    "parameters_before", "parameters", "macs_before", "macs", "bytes_before", "bytes",
    "moves_before", "moves", "ms_before", "ms", "seconds", "widths", "uneven", "grouped",
    "uneven_grouped", "note", "protocol",
)  # fmt: skip
SCALING_FIELDS = ("depth", "layers", "nodes", "seconds", "version", "torch")


@dataclass(frozen=True)
class Cell:
    """One network, pruned in one way, and the tool that compacts it."""

    network: str
    image: int
    pruning: str
    tool: str

    @property
    def key(self) -> tuple[str, ...]:
        """What a line of it is found by."""
        return (self.network, str(self.image), self.pruning, self.tool)


@dataclass(frozen=True)
class Size:
    """A comparison of some length.

    Attributes:
        cells: in the order of the table.
        timeout: of one cell, s.
        turns_seconds: for the latency of one cell.
    """

    cells: tuple[Cell, ...]
    timeout: int
    turns_seconds: float


def cells(networks: Iterable[str], image: int, pruning: str) -> list[Cell]:
    """Return the cells of some networks, all tools of one beside each other."""
    return [Cell(name, image, pruning, tool) for name in networks for tool in TOOLS]


# --- networks --------------------------------------------------------------------------------


def pruned(network: str, pruning: str) -> nn.Module:
    """Build a torchvision network with lively statistics, and prune it; always the same."""
    import torchvision

    torch.manual_seed(0)
    options = {"weights": None, "num_classes": CLASSES, **BUILD.get(network, {})}
    model: nn.Module = getattr(torchvision.models, network)(**options)
    settle(model.eval(), seed=1)
    if pruning in RATES:
        zero_weights(model, RATES[pruning], seed=2)
    else:
        zero_filters(model, 0.5, seed=2, everything=pruning == ZEROED)
    return model


@torch.no_grad()
def settle(model: nn.Module, seed: int) -> None:
    """Give norms random parameters and statistics, every bias and layer scale a value."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return torch.randn(like.shape, generator=generator) * scale + shift

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(draw(module.running_mean, 0.3))
            module.running_var.copy_(draw(module.running_var, 0.5).abs() + 0.5)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.copy_(draw(module.weight, 0.2, 1.0))
            module.bias.copy_(draw(module.bias, 0.3))
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            module.bias.copy_(draw(module.bias, 0.3))
        scale = getattr(module, "layer_scale", None)
        if isinstance(scale, nn.Parameter):
            scale.copy_(draw(scale, 0.1, 0.5))


def layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return what has weights, in order; the last one makes the outputs.

    >>> len(layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(2, 3))))
    2
    """
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@torch.no_grad()
def zero_filters(model: nn.Module, fraction: float, seed: int, *, everything: bool) -> None:
    """Zero random filters of every layer but the last.

    Args:
        model: changed in place.
        fraction: how likely each filter is chosen; one of each layer stays.
        seed: of the choice.
        everything: bias and following batch norm of the channel become zero too, and a
            depthwise convolution loses the channels that the convolution before it lost.
    """
    generator = torch.Generator().manual_seed(seed)
    leaves = [m for m in model.modules() if not list(m.children())]
    chosen = torch.zeros(0, dtype=torch.bool)
    for layer in layers(model)[:-1]:
        width = layer.weight.shape[0]
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == width == len(chosen)
        if not (everything and depthwise):
            chosen = torch.rand(width, generator=generator) < fraction
            chosen[0] &= not bool(chosen.all())
        tensors = [layer.weight]
        if everything:
            norm = leaves[leaves.index(layer) + 1]
            tensors += [layer.bias] if layer.bias is not None else []
            tensors += [norm.weight, norm.bias] if isinstance(norm, nn.BatchNorm2d) else []
        for tensor in tensors:
            tensor[chosen] = 0


@torch.no_grad()
def zero_weights(model: nn.Module, fraction: float, seed: int) -> None:
    """Zero the smallest weights of every layer; filters differ in size as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers(model):
        weight = layer.weight
        sizes = torch.randn(weight.shape[0], generator=generator).exp()
        sizes /= sizes.square().mean().sqrt()
        if layer is not layers(model)[-1]:
            weight.mul_(sizes.view(-1, *[1] * (weight.dim() - 1)))
        threshold = weight.abs().flatten().kthvalue(int(weight.numel() * fraction)).values
        weight[weight.abs() <= threshold] = 0


# --- tools -----------------------------------------------------------------------------------


def this_project(model: nn.Module, image: int) -> nn.Module:
    """Compact with this project."""
    from pipeline.graph.surgery import compact

    return compact(model, (3, image, image))[0]


def this_project_in_blocks(model: nn.Module, image: int) -> nn.Module:
    """Compact with this project, widths kept a multiple of 8 by dead channels."""
    from pipeline.graph.surgery import compact

    return compact(model, (3, image, image), multiple=8)[0]


def torch_simplify(model: nn.Module, image: int) -> nn.Module:
    """Compact with torch-simplify and its defaults."""
    from simplify import simplify  # type: ignore[import-not-found]  # an optional peer

    result: nn.Module = simplify(model, torch.zeros(1, 3, image, image))
    return result


def torch_pruning(model: nn.Module, image: int) -> nn.Module:
    """Take every dead filter out as Torch-Pruning's documentation shows."""
    return _torch_pruning(model, image, whole=False)


def torch_pruning_whole(model: nn.Module, image: int) -> nn.Module:
    """Take out what is dead in every layer it is coupled with: the careful use."""
    return _torch_pruning(model, image, whole=True)


def _torch_pruning(model: nn.Module, image: int, *, whole: bool) -> nn.Module:
    """Search the dead filters, which Torch-Pruning leaves to its user, and prune them."""
    import torch_pruning as tp  # type: ignore[import-not-found]  # an optional peer

    model.requires_grad_(True)
    with torch.enable_grad():
        example = torch.randn(1, 3, image, image)
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
        for layer in layers(model)[:-1]:
            dead = dead_filters(layer)
            function = (
                tp.prune_conv_out_channels
                if isinstance(layer, nn.Conv2d)
                else tp.prune_linear_out_channels
            )
            if dead and whole:
                dead = _dead_everywhere(graph, layer, function, dead)
            if not dead:
                continue
            group = graph.get_pruning_group(layer, function, idxs=dead)
            if graph.check_pruning_group(group):
                group.prune()
    return model


def dead_filters(layer: nn.Module) -> list[int]:
    """Return the outputs that have no weight but zeros.

    >>> dead_filters(nn.Conv2d(3, 2, 1))
    []
    """
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return [int(i) for i in (~weight.flatten(1).any(1)).nonzero().flatten()]


def _dead_everywhere(
    graph: Any, layer: nn.Module, function: Any, dead: list[int]
) -> list[int]:
    """Keep those whose filters are zero in every layer that would lose them too."""
    alive: set[int] = set()
    for item in graph.get_pruning_group(layer, function, idxs=dead):
        module = item.dep.target.module
        if isinstance(module, nn.Conv2d | nn.Linear) and graph.is_out_channel_pruning_fn(
            item.dep.handler
        ):
            rows = set(dead_filters(module))
            pairs = zip(item.idxs, item.root_idxs, strict=True)
            alive.update(root for index, root in pairs if index not in rows)
    return [index for index in dead if index not in alive]


TOOLS: dict[str, Callable[[nn.Module, int], nn.Module]] = {
    OURS: this_project,
    EVEN: this_project_in_blocks,
    SIMPLIFY: torch_simplify,
    GROUPS: torch_pruning,
    WHOLE: torch_pruning_whole,
}
RESIDUAL_FREE = ("vgg16_bn", "squeezenet1_1")
EVERY = (
    "resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_small", "densenet121",
    "squeezenet1_1", "shufflenet_v2_x1_0", "googlenet", "efficientnet_b0", "regnet_y_400mf",
    "convnext_tiny",
)  # fmt: skip
SIZES = {
    "small": Size(
        cells=(
            *cells(("resnet18", "mobilenet_v2", "squeezenet1_1"), 64, FILTERS),
            *cells(("resnet18",), 64, ZEROED),
        ),
        timeout=120,
        turns_seconds=0.5,
    ),
    "full": Size(
        cells=(
            *cells(EVERY, 224, FILTERS),
            *cells(("resnet18", "resnet50", "mobilenet_v2", *RESIDUAL_FREE), 224, ZEROED),
            *(
                cell
                for pruning in RATES
                for cell in cells(("resnet18", "vgg16_bn"), 224, pruning)
            ),
        ),
        timeout=1200,
        turns_seconds=5.0,
    ),
}


def tool_version(tool: str) -> str | None:
    """Return what a line of the tool is measured for; nothing where it isn't installed."""
    if tool in PACKAGES:
        try:
            return version(PACKAGES[tool])
        except PackageNotFoundError:
            return None
    folder = Path(str(pipeline.graph.__file__)).parent
    code = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        code.update(path.read_bytes())
    return code.hexdigest()[:8]


# --- measuring -------------------------------------------------------------------------------


def measure(cell: Cell, folder: Path, turns_seconds: float) -> dict[str, Any]:
    """Compact one network with one tool and measure everything; what fails is said."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model = pruned(cell.network, cell.pruning)
    blank = torch.zeros(1, 3, cell.image, cell.image)
    parameters, macs = size_of(model, blank)
    row: dict[str, Any] = {"parameters_before": parameters, "macs_before": macs}
    doing = "compacting"
    try:
        after, row["seconds"] = compacted(model, cell)
        doing = "running"
        row |= compare(model, after, cell.image)
        row["parameters"], row["macs"] = size_of(after, blank)
        row |= widths(after)
    except Exception as error:  # whatever another tool raises
        return {**row, "verdict": "crash", "error": f"{doing}: {reason(error)}"}
    try:
        row |= files(model, after, blank, folder, turns_seconds)
    except Exception as error:  # likewise: its layers may have no place in ONNX
        row["note"] = f"no file: {reason(error)}"
    return row


def compacted(model: nn.Module, cell: Cell) -> tuple[nn.Module, float]:
    """Return the compacted network and the seconds it took, the best of three if short."""
    best = math.inf
    for _ in range(3):
        mine = copy.deepcopy(model)
        began = time.perf_counter()
        after = TOOLS[cell.tool](mine, cell.image).eval()
        best = min(best, time.perf_counter() - began)
        if best > 5:
            break
    return after, round(best, 3)


@torch.no_grad()
def compare(before: nn.Module, after: nn.Module, image: int) -> dict[str, Any]:
    """Return the verdict on the outputs and the largest difference, relative."""
    images = torch.randn(2, 3, image, image, generator=torch.Generator().manual_seed(3))
    expected, found = before(images), after(images)
    if expected.shape != found.shape:
        return {"verdict": "WRONG", "error": f"outputs {list(found.shape)}"}
    difference = float((expected - found).abs().max() / (expected.abs().max() or 1.0))
    return {"verdict": verdict(difference), "difference": f"{difference:.2g}"}


def verdict(difference: float) -> str:
    """Judge a relative difference.

    >>> verdict(3e-7), verdict(0.02), verdict(float("nan"))
    ('exact', 'WRONG', 'WRONG')
    """
    return "exact" if difference <= LIMIT else "WRONG"


@torch.no_grad()
def size_of(model: nn.Module, blank: Tensor) -> tuple[int, int]:
    """Return parameters, and multiply-accumulates of one image.

    Positions are taken from the outputs and widths from the weights, as a layer may scatter
    what it computed into a wider tensor.

    >>> size_of(nn.Sequential(nn.Conv2d(3, 4, 1)), torch.zeros(1, 3, 5, 5))
    (16, 300)
    """
    macs: list[int] = []

    def note(module: nn.Conv2d | nn.Linear, _inputs: object, output: Tensor) -> None:
        places = output[0, 0].numel()
        if isinstance(module, nn.Linear):
            places = output[0].numel() // output.shape[-1]
        macs.append(module.weight.numel() * places)

    handles = [layer.register_forward_hook(note) for layer in layers(model)]
    try:
        model.eval()(blank)
    finally:
        for handle in handles:
            handle.remove()
    return sum(p.numel() for p in model.parameters()), sum(macs)


def widths(model: nn.Module) -> dict[str, int]:
    """Count the layers whose number of outputs is not a multiple of four, grouped ones apart.

    ONNX Runtime's blocked layout takes a depthwise or grouped convolution of such a width out.
    """
    found = {"widths": 0, "uneven": 0, "grouped": 0, "uneven_grouped": 0}
    for layer in layers(model)[:-1]:
        grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
        found["grouped" if grouped else "widths"] += 1
        if layer.weight.shape[0] % 4:
            found["uneven_grouped" if grouped else "uneven"] += 1
    return found


def files(
    before: nn.Module, after: nn.Module, blank: Tensor, folder: Path, seconds: float
) -> dict[str, Any]:
    """Export both networks; return bytes, moving nodes and latency of the files."""
    paths = (folder / "before.onnx", folder / "after.onnx")
    for model, path in zip((before, after), paths, strict=True):
        with torch.no_grad():
            model(blank)  # torch-simplify's layers settle on the batch size
            torch.onnx.export(model, (blank,), str(path), dynamo=False)
    first, second = in_turns([str(path) for path in paths], tuple(blank.shape), seconds)
    return {
        "bytes_before": paths[0].stat().st_size,
        "bytes": paths[1].stat().st_size,
        "moves_before": moves(paths[0]),
        "moves": moves(paths[1]),
        "ms_before": f"{first:.3f}",
        "ms": f"{second:.3f}",
    }


def moves(path: Path) -> str:
    """Return the nodes that move single elements, such as ``ScatterElements 8``."""
    import onnx

    kinds = Counter(node.op_type for node in onnx.load(path).graph.node)
    found = sorted(kind for kind in kinds if kind.startswith(("Scatter", "Gather")))
    return ", ".join(f"{kind} {kinds[kind]}" for kind in found)


def in_turns(paths: list[str], shape: tuple[int, ...], seconds: float) -> list[float]:
    """Return the median latency of each file in ms, one inference of each in turn."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    image = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    sessions = [
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for path in paths
    ]
    feed = [{session.get_inputs()[0].name: image} for session in sessions]
    samples: list[list[float]] = [[] for _ in sessions]
    began = time.perf_counter()
    while len(samples[0]) < 9 or time.perf_counter() - began < seconds:
        for session, own, inputs in zip(sessions, samples, feed, strict=True):
            start = time.perf_counter_ns()
            session.run(None, inputs)
            own.append((time.perf_counter_ns() - start) * 1e-6)
    return [statistics.median(own[2:]) for own in samples]


def reason(error: BaseException) -> str:
    """Return an error in one short line.

    >>> reason(ValueError("no such layer"))
    'ValueError: no such layer'
    """
    said = " ".join(str(error).strip().partition("\n")[0].split())
    return f"{type(error).__name__}: {said}"[:110].rstrip(": ")


# --- the run ---------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--only", nargs="*", help="names of networks, default all")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--scaling", action="store_true", help="measure time by depth, too")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    stem = "compaction" if options.size == "full" else f"compaction_{options.size}"
    source, scaling = RESULTS / f"{stem}.csv", RESULTS / f"{stem}_scaling.csv"
    if not options.table:
        work(options, source)
    if options.scaling and not options.table:
        write(scaling, SCALING_FIELDS, scaling_rows())
    rows = ordered(read(source), SIZES[options.size])
    text = table(rows, read(scaling))
    write_text(RESULTS / f"{stem}.md", text)
    plot(rows, RESULTS / f"{stem}.png")
    plot_scaling(read(scaling), RESULTS / f"{stem}_scaling.png")
    print(text)


def work(options: argparse.Namespace, source: Path) -> None:
    """Measure what has no line of the tool's present version yet."""
    size = SIZES[options.size]
    present = {tool: tool_version(tool) for tool in TOOLS}
    for tool in options.tools:
        if present[tool] is None:
            print(f"{tool} is not installed: pip install -e '.[peers]'", flush=True)
    done = {(key(row), row["version"]) for row in current(read(source))}
    for cell in size.cells:
        wanted = cell.tool in options.tools and present[cell.tool] is not None
        wanted = wanted and (not options.only or cell.network in options.only)
        if not wanted or (cell.key, present[cell.tool]) in done:
            continue
        how = {"version": present[cell.tool], "protocol": PROTOCOL}
        row = {**asdict(cell), **how, **attempt(cell, size)}
        kept = [other for other in read(source) if key(other) != cell.key]
        write(source, FIELDS, sorted([*kept, row], key=key))
        print(" | ".join(line(row)), flush=True)


def attempt(cell: Cell, size: Size) -> dict[str, Any]:
    """Measure one cell in a process of its own; its end, however it comes, is a line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = {"cell": asdict(cell), "turns_seconds": size.turns_seconds}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command,
                timeout=size.timeout,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"verdict": "crash", "error": f"longer than {size.timeout} s"}
        result = folder / "row.json"
        if result.is_file():
            row: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return row
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        return {"verdict": "crash", "error": f"exit status {done.returncode}: {last[:80]}"}


def child(folder: Path) -> None:
    """Do what the process that started this one wrote down."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    row = measure(Cell(**task["cell"]), folder, task["turns_seconds"])
    write_text(folder / "row.json", json.dumps(row))


def scaling_rows() -> list[dict[str, Any]]:
    """Return the time of this project's compaction of residual networks of growing depth.

    Processor time of one thread, the depths in turns: times on a shared machine drift.
    """
    from pipeline.graph.surgery import compact

    torch.set_num_threads(1)
    models = {depth: residual(depth) for depth in SCALING_DEPTHS}
    best = dict.fromkeys(models, math.inf)
    nodes = dict.fromkeys(models, 0)
    for _ in range(SCALING_TURNS):
        for depth, model in models.items():
            began = time.process_time()
            graph, _ = compact(model, (3, 32, 32))
            best[depth] = min(best[depth], time.process_time() - began)
            nodes[depth] = len(graph.graph.nodes)
            print(f"depth {depth}: {best[depth]:.3f} s", flush=True)
    how = {"version": tool_version(OURS), "torch": versions()["torch"]}
    return [
        {
            "depth": depth,
            "layers": len(layers(model)),
            "nodes": nodes[depth],
            "seconds": round(best[depth], 4),
            **how,
        }
        for depth, model in models.items()
    ]


def residual(depth: int) -> nn.Module:
    """Return a pruned residual network for 32x32 pixels, of depth ``6n + 2``."""
    from pipeline.models.resnet import ResNet

    torch.manual_seed(0)
    blocks = [(depth - 2) // 6] * 3
    model = ResNet(3, 10, 16, 16, blocks, bias=False, shortcut="B").eval()
    settle(model, seed=1)
    zero_filters(model, 0.5, seed=2, everything=False)
    return model


# --- lines -----------------------------------------------------------------------------------


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in FIELDS[:4])


def current(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines that were measured as it is done now."""
    return [row for row in rows if row["protocol"] == PROTOCOL]


def ordered(rows: list[dict[str, Any]], size: Size) -> list[dict[str, Any]]:
    """Return the lines of the cells that are compared now, in their order."""
    found = {key(row): row for row in current(rows)}
    return [found[cell.key] for cell in size.cells if cell.key in found]


def read(source: Path) -> list[dict[str, Any]]:
    if not source.is_file():
        return []
    with source.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(source: Path, fields: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write all lines; a reader finds the old file or the new one."""
    source.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(source, text.getvalue())


# --- table and plots -------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], scaling: list[dict[str, Any]]) -> str:
    """Return everything as Markdown: a summary, the rows, and the time by depth."""
    parts = ["# Compaction side by side", "", conditions(rows), "", *summary(rows)]
    for pruning in dict.fromkeys(row["pruning"] for row in rows):
        own = [row for row in rows if row["pruning"] == pruning]
        parts += ["", f"## {pruning}", "", f"{PRUNINGS[pruning].capitalize()}.", ""]
        parts += [
            "| " + " | ".join(HEADS) + " |",
            "|---|---|---|---:|---:|---:|---|---:|---:|---|",
        ]
        parts += [f"| {' | '.join(line(row))} |" for row in own]
    return "\n".join([*parts, *scaling_table(scaling)]) + "\n"


HEADS = (
    "network", "tool", "outputs", "parameters", "MACs", "file", "moving nodes",
    "latency, ms", "compaction, s", "notes",
)  # fmt: skip


def conditions(rows: list[dict[str, Any]]) -> str:
    """Say what was measured with what."""
    tools = dict.fromkeys(
        f"{row['tool']} {row['version']}" for row in rows if row["tool"] != WHOLE
    )
    sizes = ", ".join(dict.fromkeys(f"{row['image']}x{row['image']}" for row in rows))
    return (
        f"torchvision networks with random weights and batch-norm statistics, {CLASSES} "
        f"classes, {sizes} pixels. Outputs: largest difference from the pruned network as a "
        f"part of its largest output, float32; above {LIMIT:g} they are **WRONG**. "
        "Parameters, MACs and ONNX bytes are what is left of the pruned network's. Moving "
        "nodes are Scatter and Gather nodes that its file has not. Latency is the median "
        "of the pruned and the compacted file, onnxruntime on one thread, batch 1, in turns. "
        f"“{WHOLE}” takes out only what is dead in every coupled layer. "
        f"{', '.join(tools)}; torch {versions()['torch']}. "
        "Made by `python benchmarks/compaction.py`."
    )


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Count, for each tool, the networks it compacted exactly, wrongly and not at all."""
    lines = ["| tool | networks | exact | wrong | crashed |", "|---|---:|---:|---:|---:|"]
    for tool in dict.fromkeys(row["tool"] for row in rows):
        found = Counter(row["verdict"] for row in rows if row["tool"] == tool)
        counts = (found.total(), found["exact"], found["WRONG"], found["crash"])
        lines.append(f"| {tool} | {' | '.join(str(count) for count in counts)} |")
    return lines


def line(row: dict[str, Any]) -> list[str]:
    """Return one row's cells as text."""
    latency = ""
    if row.get("ms"):
        latency = f"{float(row['ms_before']):.2f} → {float(row['ms']):.2f}"
    return [
        str(row["network"]),
        str(row["tool"]),
        outcome(row),
        left(row, "parameters"),
        left(row, "macs"),
        left(row, "bytes"),
        new_moves(row),
        latency,
        str(row.get("seconds") or ""),
        remark(row),
    ]


def outcome(row: dict[str, Any]) -> str:
    """Return the verdict on a row, marked where it is bad."""
    if row["verdict"] == "crash":
        return f"crash: `{str(row['error']).replace('|', '/').replace('`', '')}`"
    detail = row.get("difference") or row.get("error")
    return f"**WRONG** ({detail})" if row["verdict"] == "WRONG" else f"exact ({detail})"


def part(row: dict[str, Any], name: str) -> float | None:
    """Return what is left as a part of what there was; nothing where it isn't known."""
    if row["verdict"] == "crash" or not row.get(name):
        return None
    return float(row[name]) / float(row[f"{name}_before"])


def left(row: dict[str, Any], name: str) -> str:
    """Return what is left in per cent."""
    found = part(row, name)
    return "" if found is None else f"{found:.1%}"


def new_moves(row: dict[str, Any]) -> str:
    """Return the moving nodes that the pruned network's file did not have as many of."""
    had, has = _counted(row.get("moves_before")), _counted(row.get("moves"))
    return ", ".join(f"{node} {n}" for node, n in has.items() if n > had.get(node, 0))


def _counted(moves: str | None) -> dict[str, int]:
    """Read ``Gather 13, ScatterElements 36``."""
    pairs = (text.split() for text in (moves or "").split(", ") if text)
    return {node: int(count) for node, count in pairs}


def remark(row: dict[str, Any]) -> str:
    """Say why a file is missing, or what may keep it from being faster."""
    if row.get("note"):
        return str(row["note"]).replace("|", "/")
    time_left = part(row, "ms")
    if time_left is None or time_left < 1:
        return ""
    said = f"{row['uneven']} of {row['widths']} dense layers"
    if int(row["grouped"]):
        said = f"{row['uneven_grouped']} of {row['grouped']} grouped and {said}"
    return f"not faster; width no multiple of 4: {said}"


def scaling_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the time by depth as Markdown, and the power of the number of layers it is."""
    if len(rows) < 3:
        return []
    deep = rows[len(rows) // 2 :]
    how = (
        "This project's compaction of the residual networks for 32x32 pixels (depth 6n + 2), "
        f"{FILTERS} zero, processor time, best of {SCALING_TURNS} in turns; version "
        f"{rows[0]['version']}, torch {rows[0]['torch']}. The time grows with the "
        f"number of layers to the power of {growth(rows):.2f}, and of {growth(deep):.2f} from "
        f"{deep[0]['layers']} layers on."
    )
    lines = [
        "",
        "## Time by depth",
        "",
        how,
        "",
        "| depth | layers | s | ms a layer |",
        "|---:|---:|---:|---:|",
    ]
    for row in rows:
        seconds, count = float(row["seconds"]), int(row["layers"])
        lines.append(
            f"| {row['depth']} | {count} | {seconds:.3f} | {1e3 * seconds / count:.2f} |"
        )
    return lines


def growth(rows: list[dict[str, Any]]) -> float:
    """Return the slope of the time over the layers, both in logarithms.

    >>> round(growth([{"layers": 10, "seconds": 1}, {"layers": 20, "seconds": 4}]), 6)
    2.0
    """
    counts = np.log([float(row["layers"]) for row in rows])
    seconds = np.log([float(row["seconds"]) for row in rows])
    return float(np.polyfit(counts, seconds, 1)[0])


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    """Draw what is left of parameters and latency; wrong is a cross, a crash at the edge."""
    from matplotlib.figure import Figure

    if not rows:
        return
    names = list(dict.fromkeys((row["network"], row["pruning"]) for row in rows))
    height = 1.6 + 0.4 * len(names)
    figure = Figure(figsize=(10.5, height), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    panels[0].set_yticks(
        range(len(names)), [f"{name}, {said}" for name, said in names], fontsize=8
    )
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    for axes, name in zip(panels, ("parameters", "ms"), strict=True):
        dots(axes, rows, names, name)
    panels[0].set_xlabel("parameters left, % of the pruned network")
    panels[1].set_xlabel("latency left, % (ONNX Runtime, one thread)")
    figure.legend(handles=legend(rows), loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(target, dpi=130, metadata={"Software": None})


def dots(
    axes: Any, rows: list[dict[str, Any]], names: list[tuple[str, str]], name: str
) -> None:
    """Draw one mark for each row, the tools of a network below each other."""
    found: list[float] = [v for row in rows if (v := part(row, name)) is not None]
    edge = 100 * max([*found, 1.0]) * 1.9
    tools = list(COLOURS)
    for index in range(0, len(names), 2):
        axes.axhspan(index - 0.5, index + 0.5, color="0.95", zorder=0)
    axes.axvline(100, color="0.6", lw=0.8, zorder=1)
    for row in rows:
        shift = 0.2 * (tools.index(row["tool"]) - (len(tools) - 1) / 2)
        y = names.index((row["network"], row["pruning"])) + shift
        value, colour = part(row, name), COLOURS[row["tool"]]
        if row["verdict"] == "crash":
            axes.text(edge, y, "crash", color=colour, fontsize=5.5, ha="right", va="center")
        elif value is not None:
            mark = "x" if row["verdict"] == "WRONG" else "o"
            axes.plot(100 * value, y, mark, color=colour, ms=4.5, zorder=3)
    axes.set_xscale("log")
    low = 100.0 * min([*found, 0.5]) / 1.3
    ticks = [t for t in (1, 2, 5, 10, 25, 50, 100, 200, 400, 1000, 3000) if low < t < edge]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, edge * 1.05)
    axes.grid(axis="x", alpha=0.3)


def legend(rows: list[dict[str, Any]]) -> list[Any]:
    """Return the tools by colour, and what a dot and a cross are."""
    from matplotlib.lines import Line2D

    present = {row["tool"] for row in rows}
    tools = [
        Line2D([], [], color=colour, lw=4, label=tool)
        for tool, colour in COLOURS.items()
        if tool in present
    ]
    marks = [("o", "outputs exact"), ("x", "outputs WRONG")]
    return tools + [Line2D([], [], color="0.2", ls="", marker=m, label=t) for m, t in marks]


def plot_scaling(rows: list[dict[str, Any]], target: Path) -> None:
    """Draw the time over the number of layers, and a straight line through it."""
    from matplotlib.figure import Figure

    if len(rows) < 2:
        return
    counts = np.array([float(row["layers"]) for row in rows])
    seconds = np.array([float(row["seconds"]) for row in rows])
    slope, start = np.polyfit(counts, seconds, 1)
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(counts, start + slope * counts, color="0.6", lw=1, label="straight line")
    axes.plot(counts, seconds, "o", color=COLOURS[OURS], label=OURS)
    axes.set(xlabel="layers with weights", ylabel="compaction, s", xlim=(0, None))
    axes.set_ylim(0, None)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(target, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
