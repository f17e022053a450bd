import re
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiler_graphs import mobilenet_v1, mobilenet_v2

from pipeline.profilers.file_graph import FileGraph, OpInfo, TensorInfo, read
from pipeline.profilers.memory import (
    ALIGNMENT,
    Lifetime,
    arena_bytes,
    greedy_offsets,
    lifetimes,
    plan,
)

REFERENCE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mlperf-tiny"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(),
    reason="the MLPerf Tiny reference files are not beside the checkout",
)


def tensor(name, size, constant=False):
    return TensorInfo(name=name, bytes=size, shape=(size,), dtype="int8", constant=constant)


def graph(tensors, ops, inputs, outputs):
    return FileGraph(
        format="tflite", tensors=tensors, ops=ops, inputs=inputs, outputs=outputs, dtype="int8"
    )


def op(inputs, outputs, **more):
    return OpInfo(type="OP", inputs=inputs, outputs=outputs, **more)


def residual():
    """x -> a -> b, y = a + b: a is held while b is made."""
    tensors = (tensor("x", 64), tensor("a", 128), tensor("b", 128), tensor("y", 128))
    ops = (op(("x",), ("a",)), op(("a",), ("b",)), op(("a", "b"), ("y",)))
    return graph(tensors, ops, ("x",), ("y",))


@needs_reference
def test_resnet8_int8_needs_what_was_published():
    planned = plan(read(REFERENCE / "resnet8_int8.tflite"))
    assert planned.naive_bytes == 117_908
    assert planned.liveness_bytes == 49_152
    assert planned.greedy_bytes == 49_152


@needs_reference
def test_resnet8_float_needs_four_times_as_much():
    planned = plan(read(REFERENCE / "resnet8_float32.tflite"))
    assert planned.liveness_bytes == planned.greedy_bytes == 196_608


@pytest.mark.parametrize("width", [1, 4])
def test_the_wake_word_network_needs_what_was_published(width):
    network = mobilenet_v1(width, size=96, alpha=0.25, classes=2)
    planned = plan(network)
    assert len(network.ops) == 31
    assert network.macs == pytest.approx(7.49e6, rel=1e-3)
    assert planned.liveness_bytes == 55_296 * width
    assert planned.greedy_bytes == 64_512 * width
    assert planned.naive_bytes == 259_716 * width


def test_mobilenet_v2_needs_what_was_published():
    planned = plan(mobilenet_v2())
    assert planned.liveness_bytes == 96 * 112**2 + 96 * 56**2 == 1_505_280
    assert planned.in_place_bytes == 16 * 112**2 + 96 * 112**2 == 1_404_928


def test_one_byte_more_in_one_tensor_is_seen():
    base = residual()
    first, *others = base.tensors
    more = tuple(t.model_copy(update={"bytes": t.bytes + 1}) for t in others)
    spoilt = base.model_copy(update={"tensors": (first, *more)})
    assert plan(base).liveness_bytes == 384
    assert plan(spoilt).liveness_bytes == 387


def test_the_peak_is_where_everything_is_held():
    assert plan(residual()).where == "OP y"


def test_a_tensor_lives_from_its_maker_to_its_last_reader():
    lives = {life.name: (life.first, life.last) for life in lifetimes(residual())}
    assert lives == {"x": (0, 0), "a": (0, 2), "b": (1, 2), "y": (2, 2)}


def test_an_output_is_kept_to_the_end_though_nobody_reads_it():
    ops = (op(("x",), ("y",)), op(("x",), ("z",)))
    tensors = (tensor("x", 8), tensor("y", 8), tensor("z", 8))
    kept = graph(tensors, ops, ("x",), ("y", "z"))
    dropped = graph(tensors, ops, ("x",), ("z",))
    assert plan(kept).liveness_bytes == 24
    assert plan(dropped).liveness_bytes == 16


def test_constants_take_no_activation_memory():
    tensors = (tensor("x", 8), tensor("w", 1000, constant=True), tensor("y", 8))
    planned = plan(graph(tensors, (op(("x", "w"), ("y",)),), ("x",), ("y",)))
    assert planned.naive_bytes == 16


def test_a_depthwise_input_that_is_read_again_is_not_overwritten():
    tensors = tuple(tensor(name, 100) for name in "xyz")
    last = op(("y",), ("z",))
    again = op(("x", "y"), ("z",))
    first = op(("x",), ("y",), depthwise=True)
    free = plan(graph(tensors, (first, last), ("x",), ("z",)))
    held = plan(graph(tensors, (first, again), ("x",), ("z",)))
    assert free.in_place_bytes == free.liveness_bytes == 200  # the second step needs both
    assert held.in_place_bytes == held.liveness_bytes == 300


def test_an_empty_graph_needs_nothing():
    planned = plan(graph((), (), (), ()))
    assert (planned.liveness_bytes, planned.greedy_bytes, planned.where) == (0, 0, "")


def test_what_left_makes_room():
    lives = (
        Lifetime(name="wall", bytes=640, first=0, last=9),
        Lifetime(name="early", bytes=512, first=0, last=1),
        Lifetime(name="shelf", bytes=448, first=0, last=9),
        Lifetime(name="late", bytes=384, first=5, last=6),
    )
    # wall 0-640, early 640-1152, shelf 1152-1600; late fits into what early left.
    offsets = greedy_offsets(lives)
    assert offsets["late"] == offsets["early"] == 640
    assert arena_bytes(lives, offsets) == 1600


def test_of_two_gaps_the_tighter_one_is_taken():
    lives = (
        Lifetime(name="wall", bytes=1024, first=0, last=9),
        Lifetime(name="wide", bytes=960, first=0, last=1),
        Lifetime(name="shelf", bytes=896, first=0, last=9),
        Lifetime(name="tight", bytes=832, first=0, last=1),
        Lifetime(name="floor", bytes=768, first=0, last=9),
        Lifetime(name="late", bytes=704, first=5, last=6),
    )
    # wide left 1024-1984 and tight 2880-3712; late fits into both.
    offsets = greedy_offsets(lives)
    assert (offsets["wide"], offsets["tight"]) == (1024, 2880)
    assert offsets["late"] == offsets["tight"]
    assert arena_bytes(lives, offsets) == 3712 + 768


sizes = st.integers(1, 400)
lifetimes_of = st.lists(
    st.tuples(sizes, st.integers(0, 8), st.integers(0, 4)), min_size=1, max_size=12
).map(
    lambda rows: tuple(
        Lifetime(name=f"t{i}", bytes=size, first=first, last=first + more)
        for i, (size, first, more) in enumerate(rows)
    )
)


@given(lifetimes_of)
def test_no_two_live_tensors_share_a_byte(lives):
    offsets = greedy_offsets(lives)
    assert all(offset % ALIGNMENT == 0 for offset in offsets.values())
    for a, b in combinations(lives, 2):
        apart = (
            offsets[a.name] + a.bytes <= offsets[b.name]
            or offsets[b.name] + b.bytes <= offsets[a.name]
        )
        assert apart or not a.overlaps(b)


@st.composite
def graphs(draw):
    """Chains with skips: every operation reads one or two earlier tensors."""
    steps = draw(st.integers(1, 10))
    tensors = [tensor("t0", draw(sizes))]
    ops = []
    for step in range(1, steps + 1):
        read_ = draw(st.lists(st.integers(0, step - 1), min_size=1, max_size=2, unique=True))
        tensors.append(tensor(f"t{step}", draw(sizes)))
        inputs = tuple(f"t{i}" for i in read_)
        ops.append(op(inputs, (f"t{step}",), depthwise=draw(st.booleans())))
    return graph(tuple(tensors), tuple(ops), ("t0",), (f"t{steps}",))


@given(graphs())
def test_the_three_figures_are_in_order(network):
    planned = plan(network)
    padding = ALIGNMENT * len(network.tensors)
    assert planned.in_place_bytes <= planned.liveness_bytes <= planned.greedy_bytes
    assert planned.greedy_bytes <= planned.naive_bytes + padding


@given(graphs())
def test_the_liveness_is_what_counting_step_by_step_gives(network):
    lives = lifetimes(network)
    steps = range(len(network.ops))
    live = [sum(v.bytes for v in lives if v.first <= s <= v.last) for s in steps]
    planned = plan(network)
    assert planned.liveness_bytes == max(live)
    assert re.fullmatch(r"OP t\d+", planned.where)
