"""ONNX files for onnxruntime: float32, float16, and int8 with quantize/dequantize pairs."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.core.plan import SchemePlan
from pipeline.core.signature import Signature
from pipeline.core.target import Format, Method
from pipeline.exporters import ExportFailure, Images
from pipeline.exporters.landing import (
    UnfitFileError,
    check_request,
    fail,
    land,
    log_path,
    metadata,
    scratch,
    weights_of,
)
from pipeline.exporters.matching import match

if TYPE_CHECKING:
    from torch import nn

_EXTERNAL_FROM = 1_500_000_000  # bytes; protobuf ends at 2 GiB
_MAX_DIFFERENCE = 1e-4  # of the largest logit, between the two ways to write a network
_PERCENTILE = 99.99  # of the values lie in the range; what is outside is cut off
_DYNAMO_FROM = 18  # the oldest opset that torch's newer exporter writes


@dataclass(frozen=True)
class ToOnnx:
    """Writes ONNX in this process; its converters are libraries without a time limit.

    Attributes:
        opset: version of the ONNX operators.
    """

    FORMAT: ClassVar[Format] = "onnx"
    SCHEMES: ClassVar[frozenset[str]] = frozenset({"float32", "float16", "int8"})
    METHODS: ClassVar[tuple[Method, ...]] = ("min-max", "percentile", "entropy")
    SPARSE: ClassVar[bool] = False
    MIXES: ClassVar[bool] = True

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
        check_request(model, plans, signature, calibration, self)
        if not plans:
            return {}
        log = log_path(folder, "onnx")
        said = io.StringIO()
        written: dict[str, Path | ExportFailure] = {}
        with scratch(folder) as room:
            base = room / "exported.onnx"
            pixels = plans[0].input_dtype == "uint8"
            try:
                with _quiet(said):
                    way = export_float32(
                        model, signature, base, self.opset, calibration, pixels=pixels
                    )
            except Exception as error:  # torch's exporters raise anything
                reason = _reason(error, said)
                written = dict(fail(plans, reason, log))
            else:
                job = _Job(base, signature, calibration, folder, said, way)
                written = {plan.name: _finish(job, plan, model) for plan in plans}
        log.write_text(said.getvalue(), encoding="utf-8")
        return written


def export_float32(
    model: nn.Module,
    signature: Signature,
    path: Path,
    opset: int,
    images: Images,
    *,
    pixels: bool = False,
) -> str:
    """Write a network as one float32 ONNX file without any word about this machine.

    Torch has two exporters. The newer one goes first; where it fails, or its file computes
    something else than the network, the older one follows.

    Args:
        model: float32, on the CPU, in evaluation mode.
        signature: names and shapes; its batch may be ``None``.
        path: of the file.
        opset: version of the ONNX operators.
        images: that both are compared on, ``[n, c, h, w]``.
        pixels: whether the file takes bytes.

    Returns:
        Which exporter wrote it.

    Raises:
        UnfitFileError: neither of them wrote a file that agrees with the network.
    """
    ways: dict[str, Callable[..., None]] = {"dynamo": _by_dynamo, "torchscript": _by_script}
    if opset < _DYNAMO_FROM:
        ways = {"torchscript": _by_script}
    failures = {}
    for way, write in ways.items():
        try:
            write(model, signature, path, opset, pixels=pixels)
            _check_agreement(model, path, images[:5], pixels=pixels)
        except Exception as error:  # torch's exporters raise anything
            failures[way] = error
        else:
            return way
    first = next(iter(failures.values()))
    told = "; ".join(f"{way}: {_brief(error)}" for way, error in failures.items())
    raise UnfitFileError(told) from first


def _by_dynamo(
    model: nn.Module, signature: Signature, path: Path, opset: int, *, pixels: bool
) -> None:
    import torch

    program = torch.onnx.export(
        model,
        (_example(signature, pixels=pixels),),
        dynamo=True,
        opset_version=opset,
        optimize=True,
        input_names=[signature.input_name],
        output_names=[signature.output_name],
        dynamic_shapes=({0: torch.export.Dim("batch")},) if signature.batch is None else None,
        verbose=False,
    )
    if program is None:
        raise UnfitFileError("torch's exporter gave no program")
    _save(_anonymous(program.model_proto), path)


def _by_script(
    model: nn.Module, signature: Signature, path: Path, opset: int, *, pixels: bool
) -> None:
    import onnx
    import torch
    from torch.jit._trace import TracerWarning

    names = [signature.input_name, signature.output_name]
    free = {name: {0: "batch"} for name in names}
    with warnings.catch_warnings():
        # It records one run: of code that decides by what it sees, one branch would be left.
        warnings.simplefilter("error", TracerWarning)
        torch.onnx.export(
            model,
            (_example(signature, pixels=pixels),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes=free if signature.batch is None else None,
        )
    _save(_anonymous(onnx.load(path)), path)


def _example(signature: Signature, *, pixels: bool) -> Any:
    """Return zeros to trace with; two images where the batch is free.

    From one image the exporter would take the 1 for a fact.
    """
    import torch

    shape = (signature.channels, signature.height, signature.width)
    kind = torch.uint8 if pixels else torch.float32
    return torch.zeros(signature.batch or 2, *shape, dtype=kind)


def _check_agreement(model: nn.Module, path: Path, images: Images, *, pixels: bool) -> None:
    """Compare the file with the network it was written from, image by image."""
    import torch
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    size = entry.shape[0] if isinstance(entry.shape[0], int) else len(images)
    shown = np.resize(images, (size, *images.shape[1:]))
    with torch.no_grad():
        expected = model(torch.from_numpy(shown)).numpy()
    stored = shown.astype(np.uint8) if pixels else shown
    (found,) = session.run(None, {entry.name: stored})
    limit = _MAX_DIFFERENCE * max(float(np.abs(expected).max()), 1e-6)
    worst = float(np.abs(found - expected).max())
    # Where the network itself gives no numbers there is nothing to compare.
    if np.isfinite(expected).all() and not worst <= limit:
        raise UnfitFileError(f"its file is {worst:.3g} off PyTorch, limit {limit:.3g}")


def _save(proto: Any, path: Path) -> None:
    """Write a file; weights go beside it only where protobuf could not hold them."""
    import onnx

    if proto.ByteSize() <= _EXTERNAL_FROM:
        onnx.save(proto, path)
        return
    onnx.save(
        proto,
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{path.name}.data",
    )


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
    """Hands calibration images to onnxruntime, as many at a time as the file takes."""

    def __init__(self, name: str, images: Images, dtype: str, batch: int) -> None:
        self._name, self._dtype, self._batch = name, dtype, batch
        self._parts = iter([images[i : i + batch] for i in range(0, len(images), batch)])

    def get_next(self) -> dict[str, Any] | None:
        part = next(self._parts, None)
        if part is None:
            return None
        full = np.resize(part, (self._batch, *part.shape[1:]))
        return {self._name: np.ascontiguousarray(full).astype(self._dtype)}


@dataclass(frozen=True)
class _Job:
    """What the files of one network share."""

    base: Path
    signature: Signature
    calibration: Images
    folder: Path
    said: io.StringIO
    way: str


def _finish(job: _Job, plan: SchemePlan, model: nn.Module) -> Path | ExportFailure:
    """Make and land one plan's file, or say why there is none."""
    made_by = [f"torch {job.way}", *(["onnxruntime"] if plan.dtype != "fp32" else [])]
    try:
        with _quiet(job.said):
            made = _make(job, plan, model, made_by)
        return land(made, plan, job.signature, job.calibration, job.folder, made_by)
    except Exception as error:  # onnx and onnxruntime raise anything
        reason = _reason(error, job.said)
        log = log_path(job.folder, "onnx")
        return ExportFailure(name=plan.name, reason=reason, log=log)


def _make(job: _Job, plan: SchemePlan, model: nn.Module, made_by: Sequence[str]) -> Path:
    """Make one plan's file in the scratch folder from the float32 one."""
    import onnx

    source = _quantized(job, plan, model) if plan.weights == "int8" else job.base
    proto = onnx.load(source)
    if plan.weights == "float16":
        proto = _halved(proto)
    facts = metadata(plan, job.signature, output_step(proto), made_by)
    onnx.helper.set_model_props(proto, {key: _text(value) for key, value in facts.items()})
    onnx.checker.check_model(proto, full_check=True)
    made = job.base.with_name(plan.file_name)
    _save(proto, made)
    return made


def _halved(proto: Any) -> Any:
    """Return the network in half precision, its input and output as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    halved = OnnxModel(convert_float_to_float16(proto, keep_io_types=True))
    halved.topological_sort()  # the casts at the border were put behind their readers
    return halved.model


def _quantized(job: _Job, plan: SchemePlan, model: nn.Module) -> Path:
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = job.base.with_name("preprocessed.onnx")
    done = job.base.with_name("quantized.onnx")
    quant_pre_process(str(job.base), str(ready))
    methods = {
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    images = _Images(
        job.signature.input_name, job.calibration, plan.input_dtype, job.signature.batch or 1
    )
    quantize_static(
        str(ready),
        str(done),
        images,
        quant_format=QuantFormat.QDQ,
        per_channel=plan.granularity == "per-channel",
        # Arm multiplies signed by signed bytes, x86 unsigned by signed.
        activation_type=QuantType.QUInt8 if plan.activations == "uint8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=methods.get(plan.method or "", CalibrationMethod.MinMax),
        extra_options={"CalibPercentile": _PERCENTILE},
        nodes_to_exclude=_nodes(ready, weights_of(model, {k.layer for k in plan.kept})),
    )
    constants = onnx.load(done).graph.initializer
    if not any(constant.data_type == onnx.TensorProto.INT8 for constant in constants):
        raise UnfitFileError("onnxruntime quantized no weight of this network")
    return done


def _nodes(path: Path, layers: dict[str, Images]) -> list[str]:
    """Return the names of the nodes that compute some layers."""
    import onnx
    from onnx import numpy_helper

    if not layers:
        return []
    graph = onnx.load(path).graph
    values = {c.name: c for c in graph.initializer if c.data_type == onnx.TensorProto.FLOAT}
    # Layers of equal weights share one constant in the file: all of them stay in float.
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in node.input[1:2]:
            if name in values:
                readers.setdefault(name, []).append(node.name)
    constants = {name: numpy_helper.to_array(values[name]) for name in readers}
    return [node for name in match(layers, constants).values() for node in readers[name]]


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
    before = logging.root.manager.disable
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(said),
    ):
        warnings.simplefilter("always")
        logging.disable(logging.WARNING)  # onnxruntime logs advice to the user's terminal
        try:
            yield
        finally:
            logging.disable(before)
            said.writelines(f"{w.category.__name__}: {w.message}\n" for w in caught)


def _reason(error: Exception, said: io.StringIO) -> str:
    """Write an error to the log in full and return what the user needs of it."""
    said.write("".join(traceback.format_exception(error)))
    return (
        f"{_brief(error)}. If an operator is the cause, replace it in the network; the log "
        f"has the whole story."
    )


def _brief(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, UnfitFileError) else f"{type(error).__name__}: {first}"
