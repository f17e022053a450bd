"""A checkpoint that any tool pruned -> a physically smaller network, outputs proved equal.

Compaction without a run: the pruning is in the weights or in masks beside them, and the proof
is made on noise, for which no images are needed.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, fx

from pipeline.core.errors import PareError
from pipeline.core.record import Record
from pipeline.core.rundir import write_json
from pipeline.core.signature import Signature
from pipeline.exporters.landing import scratch
from pipeline.exporters.to_onnx import ToOnnx, export_float32
from pipeline.graph.counting import Count, count, demand_predicted
from pipeline.graph.equivalence import Equivalence, noise, outputs, prove_on_noise
from pipeline.graph.explain import Explanation, explain
from pipeline.graph.fold import fold_batch_norm
from pipeline.graph.plan import CutPlan
from pipeline.graph.surgery import compact
from pipeline.graph.widths import uneven
from pipeline.runtime.engines import open_model
from pipeline.stages.checkpoint import pruned_state
from pipeline.stages.network import with_weights

#: Largest accepted difference of the ONNX file as a fraction of the largest output.
ONNX_TOLERANCE = 1e-4

_WEIGHTS, _PLAN, _ONNX = "model.safetensors", "plan.json", "model.onnx"


class OnnxFile(Record):
    """How far the ONNX file is from the compacted network, or why there is none.

    Attributes:
        difference: largest one on noise, as a fraction of the largest output.
        refused: the reason, where no file was written.
    """

    difference: float | None = None
    refused: str | None = None


class Compacted(Record):
    """What a compaction did, and where it left it.

    Attributes:
        folder: with the files.
        files: their names.
        shape: of one input image, ``(c, h, w)``.
        before: the pruned network, zeros included.
        after: the compacted one.
        bytes_before: of the pruned weights as safetensors.
        bytes_after: of ``model.safetensors``.
        slow: which layers may run slowly, and what to do about it.
    """

    folder: Path
    files: list[str]
    shape: tuple[int, int, int]
    before: Count
    after: Count
    bytes_before: int
    bytes_after: int
    channels: Explanation
    proof: Equivalence
    onnx: OnnxFile
    slow: str | None


def compact_checkpoint(
    checkpoint: str | Path,
    model: str,
    shape: tuple[int, int, int],
    out: str | Path,
    *,
    zeros: bool = False,
    masks: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
    multiple: int = 1,
    fresh: bool = False,
) -> Compacted:
    """Compact the network of a checkpoint and prove that its outputs stayed what they were.

    Leaves ``model.safetensors``, ``plan.json``, ``channels.json``, ``equivalence.json`` and,
    where the network can be written as ONNX, ``model.onnx``. Nothing is written before the
    proof holds. The weights load into ``pipeline.graph.surgery.rebuild(network, shape,
    plan)``.

    Args:
        checkpoint: ``.safetensors``, or a state dict as ``.pt`` or ``.pth``; with the masks
            of ``torch.nn.utils.prune`` in it nothing else need say what is pruned.
        model: a listed model, ``torchvision:NAME`` or ``package.module:factory``.
        shape: of one input image, ``(c, h, w)``.
        out: folder for the files.
        zeros: the zeros in the weights are the pruning.
        masks: file of 0/1 tensors by parameter name.
        multiple: of which layers keep their width, by dead channels, as kernels like it.
        options: the model's own options; ``classes`` is read off the weights if not given.
        fresh: write over files of the same names in a folder that is not empty.

    Raises:
        PareError: the checkpoint, the masks or the model are not what they are said to be,
            the network cannot be traced, the proof does not hold, or ``out`` is not free.
    """
    folder = Path(out)
    _demand_free(folder, fresh=fresh)
    state = pruned_state(Path(checkpoint), zeros=zeros, masks=Path(masks) if masks else None)
    before = with_weights(model, options or {}, shape, state, Path(checkpoint))
    after, plan = compact(before, shape, multiple=multiple)
    proof = prove_on_noise(before, after, plan, shape)
    proof.demand()
    old, new = count(before, shape), count(after, shape)
    demand_predicted(old, new, plan)
    channels = explain(plan)
    weights = _packed(after.state_dict())
    with scratch(_made(folder)) as room:
        (room / _WEIGHTS).write_bytes(weights)
        _write_records(room, plan, channels, proof)
        onnx = _write_onnx(after, shape, room / _ONNX)
        files = sorted(path.name for path in room.iterdir())
        (folder / _ONNX).unlink(missing_ok=True)  # of a network that is no more
        for name in files:
            (room / name).replace(folder / name)
    return Compacted(
        folder=folder,
        files=files,
        shape=shape,
        before=old,
        after=new,
        bytes_before=len(_packed(before.state_dict())),
        bytes_after=len(weights),
        channels=channels,
        proof=proof,
        onnx=onnx,
        slow=uneven(after),
    )


def _demand_free(folder: Path, *, fresh: bool) -> None:
    """Refuse a folder whose files would be lost."""
    if folder.exists() and not folder.is_dir():
        raise PareError(f"{folder} is a file. Choose a folder with --out.")
    if not fresh and folder.is_dir() and any(folder.iterdir()):
        raise PareError(
            f"{folder} is not empty. Choose another --out, or write over the files of an "
            "earlier compaction with --fresh."
        )


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PareError(f"cannot write to {folder}: {error.strerror}.") from error
    return folder


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as safetensors, each on its own where two share their memory."""
    from safetensors.torch import save

    own = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    return bytes(save(own))


def _write_records(
    room: Path, plan: CutPlan, channels: Explanation, proof: Equivalence
) -> None:
    write_json(room / _PLAN, plan.model_dump(mode="json"))
    write_json(room / "channels.json", channels.model_dump(mode="json"))
    write_json(room / "equivalence.json", proof.model_dump(mode="json"))


def _write_onnx(model: fx.GraphModule, shape: tuple[int, int, int], path: Path) -> OnnxFile:
    """Write the network as ONNX and run it; a file that differs is not left behind."""
    images = noise((4, *shape), seed=0)
    expected = outputs(model, images)
    if len(expected) != 1:
        return OnnxFile(refused=f"the network has {len(expected)} outputs, a file takes one")
    try:
        _export(model, shape, path, images)
        found = open_model(path).run(images.numpy())
    except Exception as error:  # torch's exporter and the engine raise anything
        path.unlink(missing_ok=True)
        reason = str(error).strip().partition("\n")[0]
        return OnnxFile(refused=f"{type(error).__name__}: {reason}")
    scale = float(expected[0].abs().max()) or 1.0
    difference = float(abs(expected[0].numpy() - found).max()) / scale
    if not difference <= ONNX_TOLERANCE:
        path.unlink()
        return OnnxFile(refused=f"it differs from PyTorch by {difference:.1e} of the scale")
    return OnnxFile(difference=difference)


def _export(
    model: fx.GraphModule, shape: tuple[int, int, int], path: Path, images: Tensor
) -> None:
    channels, height, width = shape
    signature = Signature(
        channels=channels,
        height=height,
        width=width,
        mean=[0.0] * channels,  # how its images were normalised is not known, nor written
        std=[1.0] * channels,
        classes=["output"],
        batch=None,
        producer="pare",
        recipe_hash="",
    )
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        export_float32(fold_batch_norm(model), signature, path, ToOnnx().opset, images.numpy())
