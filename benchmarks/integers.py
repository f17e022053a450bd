"""What helps integers, measured on files: ranges, scales, signs, equalisation, training.

    python benchmarks/integers.py --data image-folder:PATH --weights runs/benchmarks/matrix

Takes the networks that benchmarks/export_matrix.py trained (NAME.safetensors in its folder),
makes an int8 file for each row and runs it on the 10,000 test images: PSNR and top-1 against
the float network, and the time beside the float file's, in turns on one thread. Rows differ in
one thing from the first of their block. Writes benchmarks/results/integers.md.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import fx

from pipeline.core.artifact import versions
from pipeline.core.plan import ANYTHING, Demand, SchemePlan
from pipeline.core.plugins import EXPORTERS, QUANTIZERS
from pipeline.core.recipe import DataChoice, TrainOptions
from pipeline.core.rundir import write_text
from pipeline.core.signature import Signature
from pipeline.data import Dataset, load
from pipeline.exporters import ExportFailure
from pipeline.exporters.parity import Parity, compare
from pipeline.graph.equalise import equalise
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.trace import trace
from pipeline.models import build
from pipeline.quantizers._correction import correct_bias
from pipeline.runtime.bench import measure_in_turns
from pipeline.runtime.engines import Engine, open_model
from pipeline.training.evaluation import logits
from pipeline.training.quantization_aware import train_quantized
from pipeline.training.recalibration import recalibrated

RESULTS = Path(__file__).parent / "results"
NETWORKS = {"resnet8": ("resnet8", 32), "mobilenet_v2": ("torchvision:mobilenet_v2", 64)}
TURNS = 100
QAT_EPOCHS = 2
PER_TENSOR = Demand(granularity="per-tensor")


@dataclass(frozen=True)
class Row:
    """One file: who makes it, from which weights, with which scales and ranges."""

    name: str
    exporter: str
    demand: Demand = ANYTHING
    method: str = "min-max"
    weights: str = "as trained"


ROWS = (
    Row("ONNX, s8s8, min-max", "onnx"),
    Row("ONNX, u8s8, min-max", "onnx", Demand(activations="uint8")),
    Row("ONNX, s8s8, percentile", "onnx", method="percentile"),
    Row("ONNX, s8s8, entropy", "onnx", method="entropy"),
    Row("ONNX, s8s8, scale a weight", "onnx", PER_TENSOR),
    Row("the same, equalised", "onnx", PER_TENSOR, weights="equalised"),
    Row("the same, biases corrected", "onnx", PER_TENSOR, weights="corrected"),
    Row("the same, equalised and corrected", "onnx", PER_TENSOR, weights="both"),
    Row(f"the same, equalised, {QAT_EPOCHS} epochs with rounding", "onnx", PER_TENSOR,
        weights="trained with rounding"),
    Row("LiteRT, min-max", "tflite_litert"),
    Row("LiteRT, weights by MSE", "tflite_litert", method="mse"),
    Row("LiteRT, equalised and corrected", "tflite_litert", weights="both"),
    Row("onnx2tf, min-max", "tflite_onnx2tf"),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="image-folder:data/cifar10-jpeg")
    parser.add_argument("--weights", type=Path, default=Path("runs/benchmarks/matrix"))
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    args = parser.parse_args()
    parts = []
    for name in args.networks:
        key, size = NETWORKS[name]
        choice = {"name": args.data, "size": size, "per_class": 500}
        data = load(DataChoice.model_validate(choice))
        model = build(key, {}, classes=len(data.classes), channels=3, size=size, seed=0)
        model.load_state_dict(load_file(args.weights / f"{name}.safetensors"))
        settled = recalibrated(model.eval(), data, TrainOptions(batch_size=64), 0).eval()
        parts += [
            f"## {name}",
            "",
            *table(fold_batch_norm(trace(settled, data.shape)), data),
            "",
        ]
        write_text(RESULTS / "integers.md", "\n".join([*head(), *parts]))


def head() -> list[str]:
    names = (
        "torch",
        "onnxruntime",
        "litert-torch",
        "ai-edge-quantizer",
        "onnx2tf",
        "tensorflow",
    )
    tools = ", ".join(f"{name} {versions().get(name, '-')}" for name in names)
    return [
        "# What helps integers",
        "",
        "CIFAR-10 (JPEG), 10,000 test images, 200 calibration images of the training split.",
        "Points are top-1 lost against the float network; times are medians of the int8 file",
        f"divided by those of the float32 file of the same exporter, {TURNS} turns, one",
        f"thread of an x86 processor. Made by `benchmarks/integers.py` with {tools}.",
        "",
    ]


def table(network: fx.GraphModule, data: Dataset) -> list[str]:
    chosen = data.train.subset(200, 0)
    images = data.normalise(chosen.images)
    weights = prepared(network, images, data)
    reference = logits(network, data.test.images, data).numpy()
    right = float((reference.argmax(1) == data.test.labels.numpy()).mean())
    lines = [
        f"{right:.2%} in PyTorch.",
        "",
        "| file | PSNR, dB | agreement | points lost | time |",
    ]
    lines.append("|---|---:|---:|---:|---:|")
    for row in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(
                line(row, weights[row.weights], images.numpy(), data, reference, Path(folder))
            )
        print(lines[-1], flush=True)
    return lines


def prepared(
    network: fx.GraphModule, images: torch.Tensor, data: Dataset
) -> dict[str, fx.GraphModule]:
    """Return the weights that the rows are made from."""
    equal = equalise(network).network
    options = TrainOptions(batch_size=64, lr=0.05)
    trained = train_quantized(
        equal, data, images, options, epochs=QAT_EPOCHS, granularity="per-tensor", seed=0,
        lr_factor=0.05,
    )  # fmt: skip
    return {
        "as trained": network,
        "equalised": equal,
        "corrected": correct_bias(network, images, "per-tensor").network,
        "both": correct_bias(equal, images, "per-tensor").network,
        "trained with rounding": trained.network,
    }


def line(
    row: Row, network: fx.GraphModule, images: np.ndarray, data: Dataset,
    reference: np.ndarray, folder: Path,
) -> str:  # fmt: skip
    exporter = EXPORTERS.load(row.exporter)[0]()
    int8 = QUANTIZERS.load("int8")[0].plan(exporter.FORMAT, row.demand, row.method)
    plans: list[SchemePlan] = [QUANTIZERS.load("float32")[0].plan(exporter.FORMAT), int8]
    channels, height, width = data.shape
    signature = Signature(
        channels=channels, height=height, width=width, mean=data.mean, std=data.std,
        classes=data.classes, producer="pare", recipe_hash="",
    )  # fmt: skip
    made = exporter.write(network, plans, signature, images, folder, 900)
    if any(isinstance(one, ExportFailure) for one in made.values()):
        return f"| {row.name} | refused | | | |"
    engine, plain = open_model(made[int8.name]), open_model(made["float32"])
    parity = judged(engine, data, reference)
    lost = (parity.network_top1 - parity.top1.value) * 100
    psnr = f"{parity.psnr_db:.1f}" if parity.psnr_db else "exact"
    return (
        f"| {row.name} | {psnr} | {parity.agreement:.2%} | {lost:+.2f} | "
        f"{ratio(engine, plain):.2f} |"
    )


def judged(engine: Engine, data: Dataset, reference: np.ndarray) -> Parity:
    return compare(
        engine,
        (batch.numpy() for batch in data.batches(data.test.images)),
        data.test.labels.numpy(),
        reference,
        dtype="int8",
        max_float_difference=1.0,
        min_agreement=0.0,
    )


def ratio(engine: Engine, plain: Engine) -> float:
    """Return how long one file takes as a part of the other, run in turns."""
    own, other = measure_in_turns([engine.invoke, plain.invoke], warmup_runs=10, runs=TURNS)
    return own.median_ms / other.median_ms


if __name__ == "__main__":
    main()
