import sys
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import PareError
from pipeline.profilers.file_graph import FileGraph, Node, arithmetic, overall, read
from pipeline.profilers.memory import plan

REFERENCE = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "mlperf-tiny"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(),
    reason="the MLPerf Tiny reference files are not beside the checkout",
)


# --- ONNX -----------------------------------------------------------------------------


def save_onnx(path, nodes, weights, inputs, outputs, opset=18):
    """Write a model. ``inputs`` and ``outputs``: name to shape, float32."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("example.org", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), str(path))
    return path


def conv(x, weight, out, **attributes):
    return helper.make_node("Conv", [x, weight], [out], **attributes)


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def pair(x, out, scale="s", zero="z"):
    """Q and DQ behind each other, through the integer tensor ``<out>_q``."""
    return [
        helper.make_node("QuantizeLinear", [x, scale, zero], [f"{out}_q"]),
        helper.make_node("DequantizeLinear", [f"{out}_q", scale, zero], [out]),
    ]


# The lowest integer stands for 0, so that what is quantized behind a Relu does its work.
SCALARS = {"s": np.float32(0.1), "z": np.int8(-128)}


def quantized(path, behind=(), per_channel=True, head="Relu", zero=-128):
    """x [1,3,8,8] -> Q -> conv -> Relu -> Q -> DQ -> output, weights in 8 bits."""
    scales = np.full(4 if per_channel else (), 0.1, np.float32)
    points = np.zeros_like(scales, dtype=np.int8)
    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        conv("xd", "wd", "c", pads=[1, 1, 1, 1]),
        helper.make_node(head, ["c"], ["r"]),
        *pair("r", "y"),
        *behind,
    ]
    weights = {**SCALARS, "w": zeros(4, 3, 3, 3, dtype=np.int8), "ws": scales, "wz": points}
    weights["z"] = np.int8(zero)
    return save_onnx(path, nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})


def test_a_float_convolution_is_counted(tmp_path):
    path = save_onnx(
        tmp_path / "a.onnx",
        [conv("x", "w", "y", pads=[1, 1, 1, 1], strides=[2, 2])],
        {"w": zeros(4, 3, 3, 3)},
        {"x": [1, 3, 8, 8]},
        {"y": [1, 4, 4, 4]},
    )
    graph = read(path)
    assert graph.macs == 4 * 4 * 4 * 3 * 9
    assert graph.activation_bytes == 4 * (3 * 64 + 4 * 16)
    assert graph.weight_bytes == 4 * 4 * 3 * 9
    assert (graph.format, graph.dtype, graph.int8_granularity) == ("onnx", "fp32", None)
    assert (graph.input_dtypes, graph.output_dtypes) == (("float32",), ("float32",))
    assert (graph.static_shapes, graph.batch, graph.op_types) == (True, 1, ("Conv",))


# Operator, attributes, weight, input, output, MACs.
PRODUCTS = [
    ("Conv", {"group": 4, "pads": [1] * 4}, (4, 1, 3, 3), (1, 4, 8, 8), (1, 4, 8, 8), 256 * 9),
    ("Conv", {"group": 2}, (6, 2, 1, 1), (1, 4, 8, 8), (1, 6, 8, 8), 6 * 64 * 2),
    ("ConvTranspose", {}, (3, 5, 2, 2), (1, 3, 4, 4), (1, 5, 5, 5), 3 * 16 * 5 * 4),
    ("Gemm", {}, (7, 5), (2, 7), (2, 5), 2 * 7 * 5),
    ("Gemm", {"transA": 1, "transB": 1}, (5, 7), (7, 2), (2, 5), 2 * 7 * 5),
    ("MatMul", {}, (7, 5), (3, 2, 7), (3, 2, 5), 3 * 2 * 7 * 5),
]


@pytest.mark.parametrize(("kind", "attributes", "weight", "data", "out", "macs"), PRODUCTS)
def test_every_product_is_counted(tmp_path, kind, attributes, weight, data, out, macs):
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    path = save_onnx(
        tmp_path / "a.onnx", [node], {"w": zeros(*weight)}, {"x": data}, {"y": out}
    )
    assert read(path).macs == macs


@pytest.mark.parametrize(
    ("group", "outputs", "expected"), [(4, 4, True), (4, 8, False), (1, 4, False)]
)
def test_only_a_convolution_of_each_channel_by_itself_is_depthwise(
    tmp_path, group, outputs, expected
):
    path = save_onnx(
        tmp_path / "a.onnx",
        [conv("x", "w", "y", group=group)],
        {"w": zeros(outputs, 4 // group, 1, 1)},
        {"x": [1, 4, 2, 2]},
        {"y": [1, outputs, 2, 2]},
    )
    assert read(path).ops[0].depthwise is expected


def test_an_activation_right_behind_a_convolution_costs_nothing(tmp_path):
    relu = helper.make_node("Relu", ["c"], ["y"])
    sizes = {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    weights = {"w": zeros(4, 3, 1, 1)}
    path = save_onnx(tmp_path / "a.onnx", [conv("x", "w", "c"), relu], weights, *sizes)
    graph = read(path)
    assert [op.type for op in graph.ops] == ["Conv"]
    assert graph.op_types == ("Conv", "Relu")
    assert graph.activation_bytes == 4 * 64 * (3 + 4)


def test_an_activation_whose_input_is_read_elsewhere_is_an_operation(tmp_path):
    nodes = [
        conv("x", "w", "c"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["c", "r"], ["y"]),
    ]
    sizes = {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    path = save_onnx(tmp_path / "a.onnx", nodes, {"w": zeros(4, 3, 1, 1)}, *sizes)
    assert [op.type for op in read(path).ops] == ["Conv", "Relu", "Add"]


def test_a_quantized_convolution_moves_one_byte_an_element(tmp_path):
    graph = read(quantized(tmp_path / "a.onnx"))
    assert [op.type for op in graph.ops] == ["QuantizeLinear", "Conv", "DequantizeLinear"]
    first, middle, last = (op.activation_bytes for op in graph.ops)
    assert first == 3 * 64 * (4 + 1)
    assert middle == 64 * (3 + 4)
    assert last == 4 * 64 * (1 + 4)
    assert graph.dtype == "int8"
    assert plan(graph).liveness_bytes == 4 * 64 * (1 + 4)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_granularity_is_that_of_the_weights(tmp_path, per_channel):
    graph = read(quantized(tmp_path / "a.onnx", per_channel=per_channel))
    assert graph.int8_granularity == ("per-channel" if per_channel else "per-tensor")


def test_a_convolution_whose_output_is_read_in_float_runs_in_float(tmp_path):
    # Sigmoid reads what the convolution wrote in float: Q doesn't reach the kernel.
    graph = read(quantized(tmp_path / "a.onnx", head="Sigmoid"))
    kinds = [op.type for op in graph.ops]
    assert kinds == [
        "QuantizeLinear", "DequantizeLinear", "Conv", "Sigmoid", "QuantizeLinear",
        "DequantizeLinear",
    ]  # fmt: skip
    assert graph.ops[2].activation_bytes == 64 * (3 + 4) * 4
    assert graph.dtype == "w8"


@pytest.mark.parametrize(("zero", "dtype"), [(-128, "int8"), (0, "w8"), (-127, "w8")])
def test_a_relu_is_done_by_a_range_that_ends_at_zero_and_by_no_other(tmp_path, zero, dtype):
    assert read(quantized(tmp_path / "a.onnx", zero=zero)).dtype == dtype


@pytest.mark.parametrize(("highest", "dtype"), [(6.0, "int8"), (5.9, "w8")])
def test_a_clip_is_done_by_a_range_within_its_bounds_and_by_no_other(tmp_path, highest, dtype):
    path = quantized(tmp_path / "a.onnx", head="Clip")
    model = onnx.load(str(path))
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    clip.input.extend(["low", "high"])
    values = {"low": 0.0, "high": highest, "s": 6 / 255}
    kept = [tensor for tensor in model.graph.initializer if tensor.name != "s"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    onnx.save(model, str(path))
    assert read(path).dtype == dtype


def _kernels(path):
    """Return what onnxruntime makes of a file, from the file that it optimized.

    Left alone it makes signed pairs unsigned on x86, and then fuses less than on Arm.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = f"{path}.optimized"
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(options.optimized_model_filepath)
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("head", "zero"), [("Relu", -128), ("Relu", 0), ("Sigmoid", -128), ("Tanh", -128)]
)
def test_the_runtime_agrees_on_what_runs_in_integers(tmp_path, head, zero):
    path = quantized(tmp_path / "a.onnx", head=head, zero=zero)
    assert ("QLinearConv" in _kernels(path)) is (read(path).dtype == "int8")


SINGLES = [
    ("GlobalAveragePool", 1, {}), ("AveragePool", 1, {"kernel_shape": [2, 2]}),
    ("Add", 2, {}), ("Mul", 2, {}), ("Sub", 2, {}), ("Div", 2, {}), ("Concat", 2, {"axis": 1}),
    ("Sigmoid", 1, {}), ("LeakyRelu", 1, {}), ("Softmax", 1, {}), ("Tanh", 1, {}),
    ("HardSwish", 1, {}), ("ReduceMean", 1, {}), ("MaxPool", 1, {"kernel_shape": [2, 2]}),
    ("Transpose", 1, {"perm": [0, 2, 3, 1]}), ("Flatten", 1, {}), ("GlobalMaxPool", 1, {}),
    ("ReduceMin", 1, {}), ("Erf", 1, {}), ("Max", 2, {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "reads", "attributes"), SINGLES)
def test_the_list_of_integer_operators_is_the_runtimes(tmp_path, kind, reads, attributes):
    names = [f"x{i}" for i in range(reads)]
    nodes = [node for name in names for node in pair(name, f"{name}d")]
    nodes.append(helper.make_node(kind, [f"{n}d" for n in names], ["o"], **attributes))
    nodes += pair("o", "y")
    sizes = {name: [1, 4, 8, 8] for name in names}, {"y": None}
    path = save_onnx(tmp_path / "a.onnx", nodes, SCALARS, *sizes)
    op = next(op for op in read(path).ops if op.conversion is None)
    # In float each input is dequantized, and so is the output once more.
    optimized = _kernels(path)
    model = onnx.load(f"{path}.optimized")
    dequantized = [n for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert optimized
    assert (op.arithmetic == "int8") is (len(dequantized) == 1), [op, optimized]


def test_a_dequantized_tensor_a_float_operation_reads_is_written(tmp_path):
    nodes = [*pair("x", "xd"), helper.make_node("Sigmoid", ["xd"], ["y"])]
    path = save_onnx(tmp_path / "a.onnx", nodes, SCALARS, {"x": [1, 8]}, {"y": [1, 8]})
    graph = read(path)
    kinds = [op.type for op in graph.ops]
    assert kinds == ["QuantizeLinear", "DequantizeLinear", "Sigmoid"]
    assert graph.ops[2].activation_bytes == 8 * 4 * 2


def test_a_quantized_sum_runs_in_integers(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("Add", ["xd", "xd"], ["a"]),
        *pair("a", "y"),
    ]
    path = save_onnx(tmp_path / "a.onnx", nodes, SCALARS, {"x": [1, 8]}, {"y": [1, 8]})
    add = next(op for op in read(path).ops if op.type == "Add")
    assert add.activation_bytes == 8 + 8  # read once, though named twice


def test_a_kernel_reads_integers_though_a_float_operation_reads_the_same_tensor(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        conv("xd", "wd", "c"),
        *pair("c", "y"),
        helper.make_node("Sigmoid", ["xd"], ["v"]),
    ]
    weights = {**SCALARS, "w": zeros(3, 3, 1, 1, dtype=np.int8)}
    sizes = {"x": [1, 3, 8, 8]}, {"y": [1, 3, 8, 8], "v": [1, 3, 8, 8]}
    graph = read(save_onnx(tmp_path / "a.onnx", nodes, weights, *sizes))
    moved = {op.type: op.activation_bytes for op in graph.ops}
    assert graph.dtype == "int8"
    assert moved["Conv"] == 3 * 64 * (1 + 1)
    assert moved["DequantizeLinear"] == 3 * 64 * (1 + 4)
    assert moved["Sigmoid"] == 3 * 64 * (4 + 4)


def test_an_activation_between_a_quantized_sum_and_its_pair_costs_nothing(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("Add", ["xd", "xd"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        *pair("r", "y"),
    ]
    path = save_onnx(tmp_path / "a.onnx", nodes, SCALARS, {"x": [1, 8]}, {"y": [1, 8]})
    moved = [(op.type, op.activation_bytes) for op in read(path).ops]
    assert moved[1] == ("Add", 8 + 8)
    assert len(moved) == 3


def test_a_sum_whose_float_result_is_wanted_runs_in_float(tmp_path):
    nodes = [
        *pair("x", "xd"),
        helper.make_node("Add", ["xd", "xd"], ["a"]),
        *pair("a", "y"),
    ]
    sizes = {"x": [1, 8]}, {"y": [1, 8], "a": [1, 8]}
    graph = read(save_onnx(tmp_path / "a.onnx", nodes, SCALARS, *sizes))
    add = next(op for op in graph.ops if op.type == "Add")
    assert add.activation_bytes == 8 * 4 + 8 * 4


def test_a_file_that_names_no_version_of_its_operators_is_refused(tmp_path):
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="nowhere.example")]
    path = save_onnx(tmp_path / "a.onnx", nodes, {}, {"x": [1, 8]}, {"y": [1, 8]})
    with pytest.raises(PareError, match="no shape can be inferred"):
        read(path)


def test_without_its_engine_a_lite_file_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    (tmp_path / "a.tflite").write_bytes(b"....TFL3")
    with pytest.raises(PareError, match=r"needs ai-edge-litert.*pip install 'pare\[tflite\]'"):
        read(tmp_path / "a.tflite")


def test_integers_made_on_the_fly_are_no_integer_file(tmp_path):
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "p"]),
        helper.make_node("ConvInteger", ["q", "w", "p"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = {"w": zeros(4, 3, 1, 1, dtype=np.int8)}
    path = save_onnx(
        tmp_path / "a.onnx", nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    )
    graph = read(path)
    assert (graph.dtype, graph.int8_granularity) == ("dynamic", "per-tensor")
    assert graph.macs == 4 * 64 * 3


def test_eight_bit_weights_alone_are_made_float_before_the_kernel(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"]),
        conv("x", "wd", "y"),
    ]
    weights = {**SCALARS, "w": zeros(4, 3, 1, 1, dtype=np.int8)}
    path = save_onnx(
        tmp_path / "a.onnx", nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    )
    graph = read(path)
    assert (graph.dtype, graph.int8_granularity) == ("w8", "per-tensor")
    assert [op.type for op in graph.ops] == ["Conv"]
    assert graph.activation_bytes == 4 * 64 * (3 + 4)


def test_half_precision_weights_are_seen_through_their_cast(tmp_path):
    nodes = [
        helper.make_node("Cast", ["w"], ["wf"], to=TensorProto.FLOAT),
        conv("x", "wf", "y"),
    ]
    weights = {"w": zeros(4, 3, 1, 1, dtype=np.float16)}
    path = save_onnx(
        tmp_path / "a.onnx", nodes, weights, {"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]}
    )
    graph = read(path)
    assert (graph.dtype, graph.weight_bytes) == ("fp16", 4 * 3 * 2)


def test_one_float_product_makes_an_integer_file_mixed(tmp_path):
    behind = [conv("y", "v", "f")]
    nodes_path = quantized(tmp_path / "a.onnx")
    model = onnx.load(str(nodes_path))
    model.graph.node.extend(behind)
    model.graph.initializer.append(numpy_helper.from_array(zeros(2, 4, 1, 1), "v"))
    del model.graph.output[:]
    shape = [1, 2, 8, 8]
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, shape))
    onnx.save(model, str(nodes_path))
    assert read(nodes_path).dtype == "mixed"


def test_a_constant_node_is_a_weight_like_any_other(tmp_path):
    constant = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array(zeros(4, 3, 1, 1))
    )
    path = save_onnx(
        tmp_path / "a.onnx",
        [constant, conv("x", "w", "y")],
        {},
        {"x": [1, 3, 8, 8]},
        {"y": [1, 4, 8, 8]},
    )
    graph = read(path)
    assert graph.weight_bytes == 48
    assert [op.type for op in graph.ops] == ["Conv"]


def test_an_open_batch_is_read_as_one_and_told(tmp_path):
    path = save_onnx(
        tmp_path / "a.onnx",
        [conv("x", "w", "y")],
        {"w": zeros(4, 3, 1, 1)},
        {"x": ["n", 3, 8, 8]},
        {"y": ["n", 4, 8, 8]},
    )
    graph = read(path)
    assert (graph.static_shapes, graph.batch) == (False, 1)
    assert graph.macs == 4 * 3 * 64


def test_only_the_open_batch_is_set(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "k"], ["y"])]
    sizes = {"x": ["n", 8], "k": []}, {"y": ["n", 8]}
    graph = read(save_onnx(tmp_path / "a.onnx", nodes, {}, *sizes))
    assert [tensor.shape for tensor in graph.tensors] == [(1, 8), (), (1, 8)]


def test_a_fixed_batch_is_counted_in_full(tmp_path):
    path = save_onnx(
        tmp_path / "a.onnx",
        [conv("x", "w", "y")],
        {"w": zeros(4, 3, 1, 1)},
        {"x": [2, 3, 8, 8]},
        {"y": [2, 4, 8, 8]},
    )
    assert (read(path).batch, read(path).macs) == (2, 2 * 4 * 3 * 64)


def test_an_open_image_size_is_refused(tmp_path):
    path = save_onnx(
        tmp_path / "a.onnx",
        [conv("x", "w", "y")],
        {"w": zeros(4, 3, 1, 1)},
        {"x": [1, 3, "h", 8]},
        {"y": [1, 4, "h", 8]},
    )
    with pytest.raises(PareError, match="size 2 of input 'x' is left open"):
        read(path)


def test_control_flow_is_refused(tmp_path):
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value_float=1.0)],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [])],
    )
    nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    path = save_onnx(tmp_path / "a.onnx", nodes, {}, {"x": []}, {"y": []})
    with pytest.raises(PareError, match="If holds a graph of its own"):
        read(path)


def test_an_operator_nobody_knows_is_refused(tmp_path):
    nodes = [
        helper.make_node("Mystery", ["x"], ["m"], domain="example.org"),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    path = save_onnx(tmp_path / "a.onnx", nodes, {}, {"x": [1, 8]}, {"y": [1, 8]})
    with pytest.raises(PareError, match="the shape of 'm', near operator 'Mystery'"):
        read(path)


# --- TFLite ---------------------------------------------------------------------------


@pytest.fixture
def schema():
    return pytest.importorskip("ai_edge_litert.schema_py_generated")


class Lite:
    """Writes a TFLite file tensor by tensor."""

    def __init__(self, schema):
        self.schema, self.model = schema, schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.graph = [], schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]

    def tensor(self, shape, dtype="FLOAT32", data=None, scales=0, signature=None, name=""):
        tensor, buffer = self.schema.TensorT(), self.schema.BufferT()
        if data is not None:
            buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        tensor.shape, tensor.buffer = list(shape), len(self.model.buffers) - 1
        tensor.type = getattr(self.schema.TensorType, dtype)
        tensor.name = name or f"t{len(self.graph.tensors)}"
        if scales:
            tensor.quantization = self.schema.QuantizationParametersT()
            tensor.quantization.scale = [0.1] * scales
            tensor.quantization.zeroPoint = [0] * scales
        if signature:
            tensor.shapeSignature = list(signature)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weight(self, shape, dtype=np.float32, scales=0):
        kinds = {np.float32: "FLOAT32", np.int8: "INT8", np.float16: "FLOAT16"}
        data = np.ones(shape, dtype).tobytes()
        return self.tensor(shape, kinds[dtype], data, scales)

    def op(self, kind, inputs, outputs):
        code, operator = self.schema.OperatorCodeT(), self.schema.OperatorT()
        code.builtinCode = getattr(self.schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        self.graph.operators.append(operator)

    def save(self, path, inputs, outputs):
        import flatbuffers

        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


# Operator, data, weight, output, MACs. Images are [n, h, w, c].
LITE_PRODUCTS = [
    ("CONV_2D", (1, 8, 8, 3), (4, 3, 3, 3), (1, 8, 8, 4), 64 * 4 * 27),
    ("CONV_2D", (1, 8, 8, 4), (6, 1, 1, 2), (1, 8, 8, 6), 64 * 6 * 2),
    ("DEPTHWISE_CONV_2D", (1, 8, 8, 4), (1, 3, 3, 4), (1, 8, 8, 4), 64 * 4 * 9),
    ("FULLY_CONNECTED", (1, 64), (10, 64), (1, 10), 640),
    ("BATCH_MATMUL", (3, 2, 7), (3, 7, 5), (3, 2, 5), 3 * 2 * 7 * 5),
    ("BATCH_MATMUL", (3, 7, 2), (3, 7, 5), (3, 2, 5), 3 * 2 * 7 * 5),
]


@pytest.mark.parametrize(("kind", "data", "weight", "out", "macs"), LITE_PRODUCTS)
def test_every_lite_product_is_counted(schema, tmp_path, kind, data, weight, out, macs):
    lite = Lite(schema)
    x, w, y = lite.tensor(data), lite.weight(weight), lite.tensor(out)
    lite.op(kind, [x, w, -1], [y])  # -1: no bias
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    assert graph.macs == macs
    assert graph.weight_bytes == 4 * prod(weight)
    assert graph.activation_bytes == 4 * (prod(data) + prod(out))
    assert graph.ops[0].depthwise is (kind == "DEPTHWISE_CONV_2D")


def test_a_transposed_convolution_is_counted_from_its_input(schema, tmp_path):
    lite = Lite(schema)
    x, w, y = lite.tensor((1, 4, 4, 3)), lite.weight((5, 2, 2, 3)), lite.tensor((1, 8, 8, 5))
    size = lite.tensor((4,), "INT32", np.int32([1, 8, 8, 5]).tobytes())
    lite.op("TRANSPOSE_CONV", [size, w, x], [y])
    assert read(lite.save(tmp_path / "a.tflite", [x], [y])).macs == 16 * 3 * 5 * 4


@pytest.mark.parametrize(
    ("data", "weight", "dtype"),
    [
        ("FLOAT32", np.float32, "fp32"),
        ("FLOAT32", np.int8, "dynamic"),
        ("INT8", np.int8, "int8"),
        ("INT16", np.int8, "int16x8"),
    ],
)
def test_the_dtype_follows_from_data_and_weight(schema, tmp_path, data, weight, dtype):
    lite = Lite(schema)
    x, y = lite.tensor((1, 4), data, scales=1), lite.tensor((1, 2), data, scales=1)
    w = lite.weight((2, 4), weight, scales=1)
    lite.op("FULLY_CONNECTED", [x, w], [y])
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    assert graph.dtype == dtype
    assert graph.input_dtypes == (data.lower(),)


@pytest.mark.parametrize(("scales", "expected"), [(1, "per-tensor"), (2, "per-channel")])
def test_many_scales_are_per_channel(schema, tmp_path, scales, expected):
    lite = Lite(schema)
    x, y = lite.tensor((1, 4), "INT8", scales=1), lite.tensor((1, 2), "INT8", scales=1)
    lite.op("FULLY_CONNECTED", [x, lite.weight((2, 4), np.int8, scales)], [y])
    assert read(lite.save(tmp_path / "a.tflite", [x], [y])).int8_granularity == expected


def test_half_precision_weights_are_unpacked_once_and_stay_weights(schema, tmp_path):
    lite = Lite(schema)
    x, y, wide = lite.tensor((1, 4)), lite.tensor((1, 2)), lite.tensor((2, 4))
    w = lite.weight((2, 4), np.float16)
    lite.op("DEQUANTIZE", [w], [wide])
    lite.op("FULLY_CONNECTED", [x, wide], [y])
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    assert (graph.dtype, graph.weight_bytes) == ("fp16", 16)
    assert [op.type for op in graph.ops] == ["FULLY_CONNECTED"]
    assert plan(graph).naive_bytes == 4 * (4 + 2)


@pytest.mark.parametrize(("unpacked", "dtype"), [(True, "w8"), (False, "dynamic")])
def test_weights_a_file_unpacks_differ_from_those_a_kernel_takes(
    schema, tmp_path, unpacked, dtype
):
    lite = Lite(schema)
    x, y = lite.tensor((1, 4)), lite.tensor((1, 2))
    w = lite.weight((2, 4), np.int8, 2)
    if unpacked:
        wide = lite.tensor((2, 4))
        lite.op("DEQUANTIZE", [w], [wide])
        w = wide
    lite.op("FULLY_CONNECTED", [x, w], [y])
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    assert (graph.dtype, graph.int8_granularity) == (dtype, "per-channel")
    assert [op.type for op in graph.ops] == ["FULLY_CONNECTED"]


def test_four_bit_weights_in_blocks_are_read(schema, tmp_path):
    lite = Lite(schema)
    x, y = lite.tensor((1, 64)), lite.tensor((1, 2))
    scales = lite.tensor((2, 2), "FLOAT16", np.ones(4, np.float16).tobytes())
    w = lite.tensor((2, 64), "INT4", bytes(64))
    blocks = schema.BlockwiseQuantizationT()
    blocks.scales, blocks.blockSize = scales, 32
    lite.graph.tensors[w].quantization = schema.QuantizationParametersT()
    lite.graph.tensors[w].quantization.details = blocks
    lite.graph.tensors[
        w
    ].quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    lite.op("FULLY_CONNECTED", [x, w], [y])
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    assert (graph.dtype, graph.int8_granularity) == ("int4", None)
    assert {tensor.dtype: tensor.bytes for tensor in graph.stored} == {
        "int4": 64,
        "float16": 8,
    }
    assert graph.tensors[w].scale is None


def test_scale_and_zero_point_are_told_where_a_tensor_has_one(schema, tmp_path):
    lite = Lite(schema)
    x, y = lite.tensor((1, 4), "INT8", scales=1), lite.tensor((1, 2), "INT8", scales=1)
    lite.graph.tensors[x].quantization.zeroPoint = [-3]
    w = lite.weight((2, 4), np.int8, 2)
    lite.op("FULLY_CONNECTED", [x, w], [y])
    graph = read(lite.save(tmp_path / "a.tflite", [x], [y]))
    found = [(tensor.scale, tensor.zero_point) for tensor in graph.tensors]
    assert found == [(pytest.approx(0.1), -3), (pytest.approx(0.1), 0), (None, None)]


@pytest.mark.parametrize(
    ("kind", "dtypes", "expected", "conversion"),
    [
        ("RELU", ("INT8", "INT8"), "int8", None),
        ("RELU", ("INT16", "INT16"), "int16x8", None),
        ("RELU", ("FLOAT32", "FLOAT32"), "fp32", None),
        ("ARG_MAX", ("INT8", "INT32"), "int8", None),
        ("SHAPE", ("INT32", "INT32"), None, None),
        ("LOG_SOFTMAX", ("INT8", "FLOAT32"), "mixed", None),
        ("QUANTIZE", ("FLOAT32", "INT8"), None, "quantize"),
        ("DEQUANTIZE", ("INT8", "FLOAT32"), None, "dequantize"),
        ("CAST", ("UINT8", "FLOAT32"), None, "cast"),
    ],
)
def test_every_operation_says_what_it_computes_in(
    schema, tmp_path, kind, dtypes, expected, conversion
):
    lite = Lite(schema)
    x, y = (lite.tensor((1, 4), dtype, scales=1) for dtype in dtypes)
    lite.op(kind, [x], [y])
    (op,) = read(lite.save(tmp_path / "a.tflite", [x], [y])).ops
    assert (op.arithmetic, op.conversion, op.name) == (expected, conversion, "t1")


def test_an_open_batch_signature_is_static_an_open_image_is_not(schema, tmp_path):
    for signature, static in (((-1, 8, 8, 3), True), ((-1, -1, 8, 3), False)):
        lite = Lite(schema)
        x, y = lite.tensor((1, 8, 8, 3), signature=signature), lite.tensor((1, 8, 8, 3))
        lite.op("RELU", [x], [y])
        assert read(lite.save(tmp_path / "a.tflite", [x], [y])).static_shapes is static


def test_tensors_of_one_name_are_told_apart(schema, tmp_path):
    lite = Lite(schema)
    x, y = lite.tensor((1, 8), name="same"), lite.tensor((1, 8), name="same")
    lite.op("RELU", [x], [y])
    assert plan(read(lite.save(tmp_path / "a.tflite", [x], [y]))).naive_bytes == 64


def test_a_custom_operator_is_known_by_its_own_name(schema, tmp_path):
    lite = Lite(schema)
    x, y = lite.tensor((1, 8)), lite.tensor((1, 8))
    lite.op("CUSTOM", [x], [y])
    lite.model.operatorCodes[0].customCode = "MyOp"
    assert read(lite.save(tmp_path / "a.tflite", [x], [y])).op_types == ("MyOp",)


def test_several_subgraphs_are_refused(schema, tmp_path):
    lite = Lite(schema)
    x = lite.tensor((1, 8))
    lite.model.subgraphs.append(schema.SubGraphT())
    with pytest.raises(PareError, match="2 subgraphs"):
        read(lite.save(tmp_path / "a.tflite", [x], [x]))


def test_a_tensor_without_a_size_is_refused(schema, tmp_path):
    lite = Lite(schema)
    x, y = lite.tensor((1, 8)), lite.tensor((1, -1))
    lite.op("RELU", [x], [y])
    with pytest.raises(PareError, match="has no fixed size"):
        read(lite.save(tmp_path / "a.tflite", [x], [y]))


@needs_reference
@pytest.mark.parametrize(
    ("name", "dtype", "granularity", "io"),
    [("int8", "int8", "per-channel", "int8"), ("float32", "fp32", None, "float32")],
)
def test_the_published_resnet8_is_read_as_published(schema, name, dtype, granularity, io):
    graph = read(REFERENCE / f"resnet8_{name}.tflite")
    assert len(graph.ops) == 16
    assert graph.macs == 12_501_632
    assert (graph.dtype, graph.int8_granularity) == (dtype, granularity)
    assert graph.input_dtypes == graph.output_dtypes == (io,)
    assert (graph.static_shapes, graph.batch) == (True, 1)


# --- both -----------------------------------------------------------------------------


def test_files_nobody_can_read_are_refused(schema, tmp_path):
    bad = {"a.onnx": "not a readable ONNX", "a.tflite": "not a TFLite", "a.h5": "only .onnx"}
    for name, message in bad.items():
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(PareError, match=message):
            read(tmp_path / name)
    with pytest.raises(PareError, match="no file at"):
        read(tmp_path / "missing.onnx")


def test_a_damaged_lite_file_is_refused(schema, tmp_path):
    path = tmp_path / "a.tflite"
    path.write_bytes(b"\xff\xff\xff\x7fTFL3" + bytes(16))
    with pytest.raises(PareError, match="is damaged"):
        read(path)


def test_a_graph_travels_as_json(tmp_path):
    graph = read(quantized(tmp_path / "a.onnx"))
    assert FileGraph.model_validate_json(graph.model_dump_json()) == graph


@pytest.mark.parametrize(
    ("activation", "weight", "expected"),
    [
        ("float32", "float32", "fp32"),
        ("float32", "float16", "fp16"),
        ("float16", "float16", "fp16"),
        ("float32", "uint8", "dynamic"),
        ("int16", "int8", "int16x8"),
        ("int16", "int16", "int16x8"),
        ("float32", "int4", "int4"),
        ("int8", "uint4", "int4"),
        ("uint8", "int8", "int8"),
        ("int8", "float32", "mixed"),
        ("float32", "bfloat16", "mixed"),
        ("int16", "float16", "mixed"),
    ],
)
def test_the_arithmetic_of_two_operands(activation, weight, expected):
    assert arithmetic(activation, weight) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["int8", "int8"], "int8"),
        (["int8", "fp32"], "mixed"),
        (["dynamic", "fp32"], "dynamic"),  # converters leave small weights in float
        (["fp16", "fp32"], "fp16"),
        (["w8", "fp32"], "w8"),
        (["w8", "dynamic"], "dynamic"),
        (["int4", "w8"], "int4"),
        (["int4", "int8"], "int4"),  # few kernels take 4-bit weights
        (["int4", "int8", "fp32"], "mixed"),
        (["int16x8", "int16x8"], "int16x8"),
        (["int16x8", "fp32"], "mixed"),
        ([], "int8"),
    ],
)
def test_the_arithmetic_of_a_whole_graph(found, expected):
    nodes = [Node("MatMul", (), (), 1, arithmetic=kind) for kind in found]
    assert overall(nodes, ["int8"]) == expected
