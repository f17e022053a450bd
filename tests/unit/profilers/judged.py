"""A file that a smart camera takes, one change at a time, and its checks by name."""

from pipeline.core.measure import Measure
from pipeline.core.target import Target
from pipeline.profilers.candidate import Candidate, GraphFigures, peak_ram
from pipeline.profilers.coverage import Coverage
from pipeline.profilers.memory import MemoryPlan

PI = Target.load("raspberry-pi-4b")
CAMERA = Target.load("smart-camera-imx8mp")


def figures(**changes):
    arena = changes.pop("arena", 1_000_000)
    base = GraphFigures(
        macs=1,
        activation_bytes=1,
        weight_bytes=2_000_000,
        op_types=("CONV_2D",),
        int8_granularity="per-tensor",
        static_shapes=True,
        batch=1,
        input_dtypes=("int8",),
        output_dtypes=("int8",),
        input_hw=(32, 32),
        memory=MemoryPlan(
            liveness_bytes=arena,
            greedy_bytes=arena,
            naive_bytes=arena,
            in_place_bytes=arena,
            where="CONV_2D widest",
        ),
    )
    return base.model_copy(update=changes)


def predicted(ms, high=None):
    return Measure(value=ms, unit="ms", basis="predicted", spread=(ms / 2, high or ms * 2))


def candidate(graph=None, **changes):
    graph = graph or figures()
    base = Candidate(
        file="net.tflite",
        format="tflite",
        scheme="int8",
        dtype="int8",
        bytes=3_000_000,
        graph=graph,
        top1=0.87,
        reference_top1=0.875,
        predicted=predicted(10),
        bound=Measure(value=2, unit="ms", basis="bound"),
        coverage=Coverage(operators=10, covered_operators=10, macs=1, covered_macs=1),
        peak_ram=peak_ram(graph),
    )
    return base.model_copy(update=changes)


def check(name, verdict):
    (found,) = [c for c in verdict.checks if c.name == name]
    return found


def limits(target, **changes):
    return target.model_copy(
        update={"constraints": target.constraints.model_copy(update=changes)}
    )


def budgets(target, **changes):
    return target.model_copy(update={"budgets": target.budgets.model_copy(update=changes)})
