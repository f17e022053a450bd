"""ONNX files for onnxruntime: float32, and int8 with quantize/dequantize pairs."""

from __future__ import annotations

import contextlib
import io
import json
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Signature
from pipeline.exporters import ExportFailure, Images
from pipeline.exporters.landing import (
    UnfitFileError,
    check_request,
    fail,
    land,
    log_path,
    metadata,
    scratch,
)

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ToOnnx:
    """Writes ONNX in this process; its converters are libraries without a time limit.

    Attributes:
        opset: version of the ONNX operators.
    """

    opset: int = 18

    def write(
        self,
        model: nn.Module,
        plans: Sequence[SchemePlan],
        signature: Signature,
        calibration: Images,
        folder: Path,
        timeout_s: float,  # noqa: ARG002 - part of the contract; nothing here is killed
    ) -> dict[str, Path | ExportFailure]:
        """Write one file a plan; see ``pipeline.exporters.Exporter``.

        Raises:
            PareError: the request itself is wrong.
        """
        check_request(model, plans, signature, calibration, "onnx")
        log = log_path(folder, "onnx")
        said = io.StringIO()
        written: dict[str, Path | ExportFailure]
        with scratch(folder) as room:
            base = room / "exported.onnx"
            try:
                with _quiet(said):
                    export_float32(model, signature, base, self.opset)
            except Exception as error:  # torch's exporter raises anything
                reason = _reason(error, said)
                written = dict(fail(plans, reason, log))
            else:
                written = {
                    plan.scheme: _finish(base, plan, signature, calibration, folder, said)
                    for plan in plans
                }
        log.write_text(said.getvalue(), encoding="utf-8")
        return written


def export_float32(model: nn.Module, signature: Signature, path: Path, opset: int) -> None:
    """Write a network as one float32 ONNX file without any word about this machine.

    A free batch is exported from an example of two images: from one image the exporter
    would take the 1 for a fact.

    Args:
        model: float32, on the CPU, in evaluation mode.
        signature: names and shapes; its batch may be ``None``.
        path: of the file.
        opset: version of the ONNX operators.
    """
    import onnx
    import torch

    free = signature.batch is None
    shape = (signature.channels, signature.height, signature.width)
    example = torch.zeros(signature.batch or 2, *shape)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        opset_version=opset,
        optimize=True,
        input_names=[signature.input_name],
        output_names=[signature.output_name],
        dynamic_shapes=({0: torch.export.Dim("batch")},) if free else None,
        verbose=False,
    )
    if program is None:
        raise UnfitFileError("torch's exporter gave no program")
    onnx.save(_anonymous(program.model_proto), path)


def output_step(proto: Any) -> float | None:
    """Return the scale of the last dequantization before the output, if there is one.

    Args:
        proto: an ``onnx.ModelProto``.
    """
    from onnx import numpy_helper

    constants = {constant.name: constant for constant in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and proto.graph.output[0].name in node.output:
            scale = constants.get(node.input[1])
            return None if scale is None else float(numpy_helper.to_array(scale).max())
    return None


class _Images:
    """Hands calibration images to onnxruntime, one at a time."""

    def __init__(self, name: str, images: Images) -> None:
        self._name = name
        self._images = iter(images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._images, None)
        return None if image is None else {self._name: np.ascontiguousarray(image[None])}


def _finish(
    base: Path,
    plan: SchemePlan,
    signature: Signature,
    calibration: Images,
    folder: Path,
    said: io.StringIO,
) -> Path | ExportFailure:
    """Make and land one scheme's file, or say why there is none."""
    try:
        with _quiet(said):
            made = _make(base, plan, signature, calibration)
        return land(made, plan, signature, calibration, folder)
    except Exception as error:  # onnx and onnxruntime raise anything
        reason = _reason(error, said)
        return ExportFailure(scheme=plan.scheme, reason=reason, log=log_path(folder, "onnx"))


def _make(base: Path, plan: SchemePlan, signature: Signature, calibration: Images) -> Path:
    """Make one scheme's file in the scratch folder from the float32 one."""
    import onnx

    source = base
    if plan.weights == "int8":
        source = _quantized(base, plan, signature.input_name, calibration)
    proto = onnx.load(source)
    facts = metadata(plan, signature, output_step(proto))
    onnx.helper.set_model_props(proto, {key: _text(value) for key, value in facts.items()})
    onnx.checker.check_model(proto, full_check=True)
    made = base.with_name(plan.file_name)
    onnx.save(proto, made)
    return made


def _quantized(base: Path, plan: SchemePlan, input_name: str, images: Images) -> Path:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = base.with_name("preprocessed.onnx")
    done = base.with_name("quantized.onnx")
    quant_pre_process(str(base), str(ready))
    quantize_static(
        str(ready),
        str(done),
        _Images(input_name, images),
        quant_format=QuantFormat.QDQ,
        per_channel=plan.granularity == "per-channel",
        # Signed activations: Arm's dot products take signed times signed.
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
    )
    constants = onnx.load(done).graph.initializer
    if not any(constant.data_type == onnx.TensorProto.INT8 for constant in constants):
        raise UnfitFileError("onnxruntime quantized no weight of this network")
    return done


def _anonymous(proto: Any) -> Any:
    """Return a copy without the exporter's stack traces, which name files of this machine."""
    clean = type(proto)()
    clean.CopyFrom(proto)
    graphs = [clean.graph, *clean.functions]
    for graph in graphs:
        named = [*graph.node, *graph.value_info]
        if graph is clean.graph:
            named += [*graph.input, *graph.output, *graph.initializer]
        for owner in (graph, *named):
            owner.ClearField("metadata_props")
            owner.ClearField("doc_string")
    clean.ClearField("metadata_props")
    return clean


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextlib.contextmanager
def _quiet(said: io.StringIO) -> Iterator[None]:
    """Send a converter's prints and warnings to the log instead of to the user."""
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        warnings.simplefilter("always")
        try:
            yield
        finally:
            said.writelines(f"{w.category.__name__}: {w.message}\n" for w in caught)


def _reason(error: Exception, said: io.StringIO) -> str:
    """Write an error to the log in full and return what the user needs of it."""
    said.write("".join(traceback.format_exception(error)))
    first = str(error).strip().partition("\n")[0]
    return (
        f"{type(error).__name__}: {first}. If an operator is the cause, replace it in the "
        f"network; the log has the whole story."
    )
