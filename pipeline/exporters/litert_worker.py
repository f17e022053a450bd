"""The child process that turns an exported program into TFLite by litert-torch.

Run as ``python -m pipeline.exporters.litert_worker request.json`` in a scratch folder.
ai-edge-quantizer then quantizes the float file, one plan at a time.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from pipeline.core.plan import SchemePlan
from pipeline.exporters.child import MISSING, Request, write_each
from pipeline.exporters.matching import match

_FLOAT = "float.tflite"
_SIGNATURE = "serving_default"  # what litert-torch calls a network's only entry
#: Operators with weights, by the quantizer's names.
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
_HAVE_INT4 = ("CONV_2D", "FULLY_CONNECTED")
_EVERYWHERE = ".*"


def main(arguments: list[str]) -> int:
    """Convert what the request asks for and return the exit code."""
    request = Request.read(Path(arguments[0]))
    try:
        import ai_edge_quantizer
        import litert_torch
        import torch
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    del ai_edge_quantizer
    program = torch.export.load(request.source)
    network = _channels_last(torch, program.module(), request.output_name)
    shape = (1, *request.calibration.shape[1:])
    example = {request.input_name: torch.zeros(shape)}
    litert_torch.convert(network, sample_kwargs=example).export(_FLOAT)
    write_each(request.plans, lambda plan: _convert(plan, request))
    return 0


def _channels_last(torch: Any, network: Any, output_name: str) -> Any:
    """Return the network with NHWC images at its border and a name for its output."""

    class ChannelsLast(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.training = False

        def forward(self, **images: Any) -> Any:
            (image,) = images.values()
            return {output_name: self.network(image.permute(0, 3, 1, 2))}

    return ChannelsLast()


def _convert(plan: SchemePlan, request: Request) -> bytes:
    from ai_edge_quantizer import quantizer

    if plan.weights == "float32":
        return Path(_FLOAT).read_bytes()
    recipe = _recipe(plan, request)
    engine = quantizer.Quantizer(_FLOAT, recipe)
    ranges = _ranges(recipe, request) if engine.need_calibration else None
    quantized = engine.quantize(ranges).quantized_model
    if quantized is None:
        raise RuntimeError("ai-edge-quantizer gave no file")
    return _in_tables(bytes(quantized))


def _in_tables(content: bytes) -> bytes:
    """Return a file whose weights stand in its tables.

    From 256 KB on the quantizer writes them behind the tables, a form meant for more than
    2 GB that older runtimes don't read and that no metadata can be added to.
    """
    import numpy as np
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for buffer in model.buffers:
        if buffer.data is not None:
            buffer.data = np.frombuffer(bytes(buffer.data), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _ranges(recipe: Any, request: Request) -> Any:
    """Return the smallest and largest value of each tensor over all calibration images.

    The quantizer's own calibration keeps a moving average of them, which cuts off what most
    images don't reach.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe)
    observer = calibrator.Calibrator(
        _FLOAT, num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    images = [{request.input_name: image} for image in request.one_by_one()]
    observer.calibrate({_SIGNATURE: images}, rules)
    return observer.get_model_qsvs()


def _recipe(plan: SchemePlan, request: Request) -> Any:
    """Write a plan in the quantizer's own words; of two that fit, the later one counts."""
    from ai_edge_quantizer import qtyping, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    grains = qtyping.QuantGranularity
    grain = grains.TENSORWISE if plan.granularity == "per-tensor" else grains.CHANNELWISE
    options = {"weight_granularity": grain}
    recipe = recipe_manager.RecipeManager()
    if plan.weights == "float16":
        for operator in _WEIGHTED:
            recipe.add_quantization_config(
                _EVERYWHERE,
                operator,
                op_config=_half(qtyping),
                algorithm_key=AlgorithmName.FLOAT_CASTING,
            )
    elif plan.is_calibrated:
        bits = 16 if plan.activations == "int16" else 8
        recipe.add_static_config(_EVERYWHERE, "*", bits, 8, **options)
        if plan.method == "mse":
            for operator in _WEIGHTED:
                recipe.add_static_config(
                    _EVERYWHERE,
                    operator,
                    bits,
                    8,
                    algorithm_key=AlgorithmName.MSE,
                    **options,
                )
        for operator in _HAVE_INT4 if plan.weights == "int4" else ():
            recipe.add_static_config(_EVERYWHERE, operator, bits, 4, **options)
        _set_border(recipe, plan, qtyping, AlgorithmName)
    elif plan.dtype == "dynamic":
        recipe.add_dynamic_config(_EVERYWHERE, "*", 8, granularity=grain)
    else:
        recipe.add_weight_only_config(_EVERYWHERE, "*", 8, granularity=grain)
    for scope in _scopes(request) if plan.kept else ():
        recipe.add_quantization_config(
            f"^{re.escape(scope)};?$", "*", algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    return recipe.get_quantization_recipe()


def _half(qtyping: Any) -> Any:
    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )


def _set_border(recipe: Any, plan: SchemePlan, qtyping: Any, algorithms: Any) -> None:
    """Say what goes in and comes out where it isn't what layers hand to each other."""
    for border, dtype in (("INPUT", plan.input_dtype), ("OUTPUT", plan.output_dtype)):
        if dtype == "float32":
            recipe.add_quantization_config(
                _EVERYWHERE, border, algorithm_key=algorithms.NO_QUANTIZE
            )
        elif dtype == "uint8":
            recipe.add_quantization_config(
                _EVERYWHERE,
                border,
                op_config=qtyping.OpQuantizationConfig(
                    activation_tensor_config=qtyping.TensorQuantizationConfig(
                        num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT
                    ),
                    weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8),
                    compute_precision=qtyping.ComputePrecision.INTEGER,
                    explicit_dequantize=False,
                ),
                algorithm_key=algorithms.MIN_MAX_UNIFORM_QUANT,
            )


def _scopes(request: Request) -> list[str]:
    """Return the outputs of the operators that compute the layers which stay in float."""
    from ai_edge_litert import schema_py_generated as schema

    content = Path(_FLOAT).read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    (graph,) = model.subgraphs
    constants = {}
    for operator in graph.operators:
        for index in operator.inputs[1:2]:
            tensor = graph.tensors[index]
            data = model.buffers[tensor.buffer].data
            if data is not None and tensor.type == schema.TensorType.FLOAT32:
                scope = graph.tensors[operator.outputs[0]].name.decode()
                constants[scope] = data.view("<f4")
    return list(match(request.kept, constants).values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
