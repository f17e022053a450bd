import pytest

from pipeline.core.errors import PareError
from pipeline.profilers.audit import Audit, audit, claimed
from pipeline.profilers.file_graph import FileGraph, Node, TensorInfo, overall, to_ops


class Chain:
    """A network written down operation by operation; each method returns what it makes."""

    def __init__(self, dtype="float32"):
        self.nodes, self.tensors = [], {}
        self.first = self.tensor(dtype)

    def tensor(self, dtype, constant=False, scale=None, zero_point=None):
        name = f"t{len(self.tensors)}"
        width = {"float32": 4, "int32": 4, "int16": 2}.get(dtype, 1)
        self.tensors[name] = TensorInfo(
            name=name, bytes=8 * width, shape=(1, 8), dtype=dtype, constant=constant,
            scale=scale, zero_point=zero_point,
        )  # fmt: skip
        return name

    def op(self, kind, *inputs, to="int8", macs=0, arithmetic=None, scale=None, point=None):
        out = self.tensor(to, scale=scale, zero_point=point)
        self.nodes.append(
            Node(kind, inputs, (out,), macs, arithmetic=arithmetic, name=f"{kind} {out}")
        )
        return out

    def conv(self, x, arithmetic="int8", macs=100, to=None):
        to = to or {"int8": "int8", "int16x8": "int16"}.get(arithmetic, "float32")
        weight = self.tensor("float32" if arithmetic == "fp32" else "int8", constant=True)
        return self.op("CONV_2D", x, weight, to=to, macs=macs, arithmetic=arithmetic)

    def quantize(self, x, **told):
        return self.op("QUANTIZE", x, to="int8", **told)

    def dequantize(self, x):
        return self.op("DEQUANTIZE", x, to="float32")

    def graph(self, *outputs):
        constants = tuple(t for t in self.tensors.values() if t.constant)
        return FileGraph(
            format="tflite",
            tensors=tuple(self.tensors.values()),
            ops=to_ops(self.nodes, self.tensors),
            inputs=(self.first,),
            outputs=outputs,
            dtype=overall(self.nodes, [self.tensors[self.first].dtype]),
            stored=constants,
        )


def with_island():
    """Quantize, conv, dequantize, hard-swish, quantize, conv, dequantize."""
    net = Chain()
    x = net.conv(net.quantize(net.first, scale=0.5, point=3))
    x = net.op("HARD_SWISH", net.dequantize(x), to="float32")
    x = net.conv(net.quantize(x), macs=300)
    return net.graph(net.dequantize(x))


def test_the_shares_are_of_what_computes():
    found = audit(with_island())
    assert (found.operators, found.computing, found.int8_operators) == (7, 3, 2)
    assert (found.macs, found.int8_macs) == (400, 400)
    assert found.int8_operator_share == pytest.approx(2 / 3)
    assert found.int8_mac_share == 1
    assert (found.quantize_ops, found.dequantize_ops, found.cast_ops) == (2, 2, 0)


def test_products_are_summed_by_what_they_multiply():
    net = Chain()
    x = net.conv(net.quantize(net.first), macs=100)
    x = net.conv(net.dequantize(x), "w8", macs=250)
    found = audit(net.graph(net.conv(x, "fp32", macs=50)))
    assert found.macs_by_arithmetic == {"w8": 250, "int8": 100, "fp32": 50}
    assert found.int8_mac_share == 0.25
    assert found.dtype == "mixed"


def test_a_float_part_between_integer_parts_is_an_island():
    (island,) = audit(with_island()).islands
    assert (island.place, island.types, island.operators) == ("inside", ("HARD_SWISH",), 1)
    assert island.first == island.last == "HARD_SWISH t5"


def test_an_integer_operation_instead_leaves_no_island():
    net = Chain()
    x = net.conv(net.quantize(net.first))
    x = net.op("HARD_SWISH", x)
    found = audit(net.graph(net.dequantize(net.conv(x))))
    assert (found.islands, found.edges) == ((), ())
    assert found.int8_operator_share == 1


def test_an_island_reaches_over_casts_but_not_over_quantize():
    net = Chain("int8")
    x = net.dequantize(net.conv(net.first))
    x = net.op(
        "EXP", net.op("CAST", net.op("LOG", x, to="float32"), to="float32"), to="float32"
    )
    x = net.op("NEG", net.dequantize(net.quantize(x)), to="float32")
    found = audit(net.graph(net.conv(net.quantize(x))))
    assert [island.types for island in found.islands] == [("LOG", "EXP"), ("NEG",)]
    assert (found.islands[0].operators, found.cast_ops) == (2, 1)


def test_branches_that_meet_are_one_island():
    net = Chain("int8")
    x = net.dequantize(net.conv(net.first))
    left, right = (net.op(kind, x, to="float32") for kind in ("SIN", "COS"))
    x = net.op("ADD", left, right, to="float32")
    (island,) = audit(net.graph(net.conv(net.quantize(x)))).islands
    assert (island.operators, island.types) == (3, ("SIN", "COS", "ADD"))


def test_branches_that_never_meet_are_two():
    net = Chain("int8")
    x = net.dequantize(net.conv(net.first))
    ends = [net.conv(net.quantize(net.op(kind, x, to="float32"))) for kind in ("SIN", "COS")]
    assert len(audit(net.graph(*ends)).islands) == 2


def test_float_parts_at_the_ends_are_no_islands():
    net = Chain()
    x = net.conv(net.first, "fp32", macs=7)
    x = net.dequantize(net.conv(net.quantize(x)))
    found = audit(net.graph(net.op("SOFTMAX", x, to="float32")))
    assert found.islands == ()
    assert [(edge.place, edge.types, edge.macs) for edge in found.edges] == [
        ("input", ("CONV_2D",), 7),
        ("output", ("SOFTMAX",), 0),
    ]


def test_a_float_file_has_no_parts():
    net = Chain()
    found = audit(net.graph(net.conv(net.conv(net.first, "fp32"), "fp32")))
    assert (found.islands, found.edges, found.int8_mac_share) == ((), (), 0)


@pytest.mark.parametrize(("to", "islands"), [("int8", 0), ("float32", 1)])
def test_four_bit_weights_are_what_their_activations_are(to, islands):
    net = Chain("int8")
    x = net.conv(net.first)
    x = net.dequantize(x) if to == "float32" else x
    x = net.conv(x, "int4", to=to)
    x = net.quantize(x) if to == "float32" else x
    assert len(audit(net.graph(net.conv(x))).islands) == islands


def test_sixteen_bit_activations_are_integers_but_not_int8():
    net = Chain("int16")
    found = audit(net.graph(net.conv(net.conv(net.first, "int16x8"), "int16x8")))
    assert (found.int8_mac_share, found.islands) == (0, ())
    assert found.macs_by_arithmetic == {"int16x8": 200}


def test_index_arithmetic_is_not_counted():
    net = Chain("int8")
    x = net.conv(net.first)
    net.op("SHAPE", x, to="int32")
    found = audit(net.graph(x))
    # SHAPE reads int8, so it counts; what only reads its int32 does not.
    net.op("PACK", net.nodes[-1].outputs[0], to="int32")
    assert audit(net.graph(x)).computing == found.computing


def test_tensors_are_counted_by_type_constants_apart():
    shares = {(d.dtype, d.constant): (d.tensors, d.bytes) for d in audit(with_island()).dtypes}
    assert shares == {
        ("int8", True): (2, 16),
        ("float32", False): (4, 128),
        ("int8", False): (4, 32),
    }


def test_operators_are_counted_by_type():
    rows = {t.type: (t.operators, t.int8, t.macs) for t in audit(with_island()).types}
    assert rows["CONV_2D"] == (2, 2, 400)
    assert rows["HARD_SWISH"] == (1, 0, 0)
    assert next(iter(rows)) == "CONV_2D"


def test_a_float_input_tells_the_scale_it_is_quantized_with():
    (port,) = audit(with_island()).inputs
    assert (port.dtype, port.scale, port.zero_point, port.inside) == (
        "float32",
        0.5,
        3,
        "int8",
    )


def test_an_integer_input_tells_its_own_and_a_plain_float_none():
    net = Chain()
    net.tensors["t0"] = net.tensors["t0"].model_copy(
        update={"dtype": "uint8", "scale": 1.0, "zero_point": 0}
    )
    (port,) = audit(net.graph(net.conv(net.first))).inputs
    assert (port.dtype, port.scale, port.zero_point, port.inside) == ("uint8", 1.0, 0, None)
    plain = Chain()
    (port,) = audit(plain.graph(plain.conv(plain.first, "fp32"))).inputs
    assert (port.scale, port.zero_point, port.inside) == (None, None, None)


# --- what a file says of itself -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "facts", "says"),
    [
        ("model.int8.tflite", {}, True),
        ("resnet8_int8.tflite", {}, True),
        ("RESNET-INT8.onnx", {}, True),
        ("print8.onnx", {}, False),
        ("model.int16x8.tflite", {}, False),
        ("model.uint8.tflite", {}, False),
        ("model_int8_dynamic.tflite", {}, False),
        ("model.int8-weights.onnx", {}, False),
        ("model.onnx", {"dtype": "int8"}, True),
        ("model.onnx", {"scheme": "int8"}, True),
        ("model.onnx", {"dtype": "fp32", "scheme": "int8"}, True),
        ("model.int8.onnx", {"dtype": "dynamic", "scheme": "dynamic_range"}, False),
        ("model.onnx", {}, False),
    ],
)
def test_what_says_int8(tmp_path, name, facts, says):
    assert (claimed(tmp_path / name, facts) is not None) is says


@pytest.mark.parametrize("arithmetic", ["fp32", "w8", "dynamic", "fp16", "int16x8"])
def test_a_file_that_says_int8_and_has_none_is_refused(arithmetic):
    net = Chain()
    found = audit(net.graph(net.conv(net.first, arithmetic)), "int8")
    assert not found.honest
    with pytest.raises(
        PareError, match=rf"^a says int8 \(its name\) .* 0 % int8.*{arithmetic}"
    ):
        found.demand("a", "its name")
    with pytest.raises(PareError, match="the file says int8 but is 0 % int8"):
        found.demand()


def test_one_int8_product_is_enough_and_so_is_not_saying_it():
    net = Chain()
    x = net.conv(net.first, "fp32", macs=10**6)
    mixed = audit(net.graph(net.conv(net.quantize(x), macs=1)), "int8")
    silent = Chain()
    assert mixed.honest
    assert mixed.demand("a") is None
    graph = silent.graph(silent.conv(silent.first, "fp32"))
    assert audit(graph).honest
    assert audit(graph, "dynamic").honest


@pytest.mark.parametrize(("dtype", "honest"), [("int8", True), ("float32", False)])
def test_without_a_product_the_other_operations_decide(dtype, honest):
    net = Chain(dtype)
    assert audit(net.graph(net.op("RELU", net.first, to=dtype)), "int8").honest is honest


def test_an_audit_travels_as_json():
    found = audit(with_island(), "int8")
    assert Audit.model_validate_json(found.model_dump_json()) == found
