import pytest
from profiler_graphs import Net, head, mobilenet_v2

from pipeline.core.target import Accelerator, Figure, OpTable, Target
from pipeline.profilers.candidate import Candidate
from pipeline.profilers.coverage import coverage
from pipeline.profilers.verdict import judge

CORAL = Target.load("coral-edgetpu")
CAMERA = Target.load("smart-camera-imx8mp")


def unit(*names, **changes):
    table = OpTable(basis="assumed", source="a test", names=names)
    return Accelerator(name="unit", kind="npu", ops=table, **changes)


def swishing():
    """Three convolutions with a hard swish behind the first."""
    net = Net(16)
    x = net.hard_swish(net.conv(net.input, 8, 3))
    x = net.conv(net.conv(x, 8, 3), 8, 3)
    return net.graph(head(net, x, 10))


EVERY = ("CONV_2D", "HARD_SWISH", "AVERAGE_POOL_2D", "RESHAPE", "FULLY_CONNECTED", "SOFTMAX")


def test_what_has_all_operators_is_covered_in_full():
    found = coverage(swishing(), unit(*EVERY))
    assert found.pct == found.operator_pct == found.mac_pct == 100
    assert found.first_outside == ""


def test_an_operator_that_is_missing_is_counted_once():
    without = [name for name in EVERY if name != "HARD_SWISH"]
    found = coverage(swishing(), unit(*without))
    assert (found.operators, found.covered_operators) == (8, 7)
    assert found.mac_pct == 100
    assert found.pct == found.operator_pct == 87.5
    assert found.first_outside == "HARD_SWISH: unit has no such operator"


def test_of_one_partition_nothing_behind_the_first_gap_is_covered():
    without = [name for name in EVERY if name != "HARD_SWISH"]
    found = coverage(swishing(), unit(*without, one_partition=True))
    assert (found.operators, found.covered_operators) == (8, 1)
    first = swishing().ops[0].macs
    assert found.covered_macs == first < found.macs
    assert found.pct == pytest.approx(12.5)


def test_without_a_table_or_an_accelerator_nothing_is_known():
    assert coverage(swishing(), None) is None
    assert coverage(swishing(), Accelerator(name="unit", kind="npu")) is None


@pytest.mark.parametrize(("rank", "covered"), [(3, 8), (2, 3), (1, 3)])
def test_a_tensor_of_too_many_dimensions_stays_outside(rank, covered):
    """An image is of three; the reshaped features of one, whatever their leading ones."""
    most = Figure(value=rank, basis="assumed", source="a test")
    found = coverage(swishing(), unit(*EVERY, max_rank=most))
    assert found.covered_operators == covered
    outside = f"t0 has more than {rank} dimensions above one"
    assert found.first_outside == ("" if rank == 3 else f"CONV_2D: {outside}")


@pytest.mark.parametrize("target", [CORAL, CAMERA])
def test_mobilenet_v2_runs_on_both_accelerators(target, tmp_path):
    network = mobilenet_v2()
    assert coverage(network, target.accelerator).pct == 100
    path = tmp_path / "net.tflite"
    path.write_bytes(b"1")
    found = Candidate.of(path, network, target, scheme="int8")
    (check,) = [c for c in judge(found, target).checks if c.name == "coverage"]
    assert check.passed is True


def test_hard_swish_early_in_a_network_rules_the_edge_tpu_out():
    found = coverage(swishing(), CORAL.accelerator)
    assert found.pct < 90
    assert found.first_outside == "HARD_SWISH: Edge TPU has no such operator"
    assert coverage(swishing(), CAMERA.accelerator).pct == 100


def test_a_tensor_has_a_dimension():
    with pytest.raises(ValueError, match="max_rank is at least 1"):
        unit("CONV_2D", max_rank=Figure(value=0, basis="assumed", source="a test"))


def test_more_than_everything_cannot_be_asked_for():
    with pytest.raises(ValueError, match="min_coverage_pct is at most 100"):
        unit("CONV_2D", min_coverage_pct=Figure(value=101, basis="assumed", source="a test"))
