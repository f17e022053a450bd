"""Time of a training step of each method against a dense one, or another, side by side.

    python benchmarks/step_time.py [--networks conv2 resnet8]

One thread, batches of 64 random images; baseline and method take turns, as times on a shared
machine drift, and the ratio of their times counts. The steps are those in the middle of a
training of 1,000, so that what a method does now and then is in it. Writes its table to
benchmarks/results/step_time.md; networks that are not asked for keep the lines they have.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.artifact import versions
from pipeline.core.budget import Budget
from pipeline.core.recipe import Choice
from pipeline.core.rundir import write_text
from pipeline.methods import Method, create
from pipeline.models import build

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"conv2": (1, 8), "conv4": (3, 32), "resnet8": (3, 32)}
#: What each is called in the table: its key and its options.
METHODS: dict[str, dict[str, str]] = {
    "dense": {"name": "dense"},
    "reparam": {"name": "reparam"},
    "reparam, paper": {"name": "reparam", "mode": "paper"},
    "gradual": {"name": "gradual"},
    "continuous": {"name": "continuous"},
    "supermask": {"name": "supermask"},
    "edge_popup": {"name": "edge_popup"},
    "hard_concrete": {"name": "hard_concrete"},
    "aslp": {"name": "aslp"},
    "aslp, naive": {"name": "aslp", "formulation": "naive"},
}
#: Baseline and method of each row.
PAIRS = [
    *(("dense", method) for method in METHODS if method != "dense"),
    ("aslp", "aslp, naive"),
]
STEPS = 40
TRAINING = 1000  # steps of the training that these are taken from


class Step:
    """One method on one network, ready to take training steps."""

    def __init__(self, method: str, network: str) -> None:
        channels, size = NETWORKS[network]
        budget = Budget(weights=1.0 if method == "dense" else 0.1)
        self.method: Method = create(Choice(**METHODS[method]), budget)
        model = build(network, {}, classes=10, channels=channels, size=size, seed=0)
        attached = self.method.attach(model, self.method.phases(10)[0])
        self.model: nn.Module = attached.train()
        groups = self.method.parameter_groups(self.model, 0.05)
        self.optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        self.images = torch.randn(64, channels, size, size)
        self.labels = torch.randint(0, 10, (64,))
        self.done = 0

    def milliseconds(self) -> float:
        self.done += 1
        progress = 0.4 + self.done / TRAINING
        began = time.perf_counter()
        task: Tensor = F.cross_entropy(self.model(self.images), self.labels)
        extra = self.method.loss(self.model, progress)
        (task if extra is None else task + extra).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(self.model, progress)
        return (time.perf_counter() - began) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    wanted = parser.parse_args().networks
    torch.set_num_threads(1)
    target = RESULTS / "step_time.md"
    rows = []
    for network in NETWORKS:
        if network in wanted:
            rows += [row(network, *pair) for pair in PAIRS]
        elif target.is_file():
            old = target.read_text(encoding="utf-8").splitlines()
            rows += [line for line in old if line.startswith(f"| {network} |")]
    how = (
        f"Mean of {STEPS} steps, one thread, batch 64, in turns; torch "
        f"{versions()['torch']}. Made by `python benchmarks/step_time.py`."
    )
    lines = [
        "# Training step against a baseline",
        "",
        how,
        "",
        "| network | baseline | method | baseline ms | method ms | ratio |",
        "|---|---|---|---:|---:|---:|",
        *rows,
    ]
    write_text(target, "\n".join(lines) + "\n")
    print("\n".join(lines))


def row(network: str, baseline: str, method: str) -> str:
    one, other = Step(baseline, network), Step(method, network)
    times = [(one.milliseconds(), other.milliseconds()) for _ in range(STEPS + 5)]
    before, after = (statistics.mean(column) for column in zip(*times[5:], strict=True))
    ratio = f"{after / before:.2f}"
    return f"| {network} | {baseline} | {method} | {before:.1f} | {after:.1f} | {ratio} |"


if __name__ == "__main__":
    main()
