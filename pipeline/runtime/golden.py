"""Golden vectors: a few images and what a file answered to them where it was made.

They lie beside the file as ``<file>.golden.json``. The images are PNG of the file's own size,
so that no version of a decoder or of a resizing filter comes between two machines.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.runtime.classifier import Classifier, digest
from pipeline.runtime.images import ImageError
from pipeline.runtime.tensors import EngineError, Floats

SCHEMA = "pare-golden/1"
LARGEST = 4_000_000  # bytes of a golden file
MOST = 16  # vectors

# What may differ, by the smallest difference that an output can show where it has one, or
# relative to the largest logit. Integers are computed exactly alike by one version of a
# runtime on x86-64 and arm64; the kernels of tflite-runtime 2.14 differ by up to 3 steps.
_STEPS = {"unit": "steps", "same_version": 0, "other_version": 3}
_FLOATS = {"unit": "relative", "same_version": 1e-4, "other_version": 1e-4}
# Weights of 16 bits or fewer in float arithmetic: kernels round them at different places.
_MIXED = {"unit": "relative", "same_version": 1e-2, "other_version": 1e-2}


def beside(path: Path) -> Path:
    """Return where the golden vectors of a file lie."""
    return path.with_name(f"{path.name}.golden.json")


def make(path: Path, images: Sequence[npt.NDArray[np.uint8]]) -> dict[str, Any]:
    """Run a file on images and return its golden vectors, as plain data.

    Args:
        path: an ``.onnx`` or ``.tflite`` file.
        images: ``[height, width, channels]`` of the file's size, 1 to ``MOST``.

    Raises:
        EngineError: the file can't be run, there are no images or too many, they have another
            shape, or all of it takes more than ``LARGEST`` bytes.
    """
    classifier = Classifier(path)
    if not 1 <= len(images) <= MOST:
        raise EngineError(f"{len(images)} golden images; give 1 to {MOST}.")
    engine = classifier.engine
    made = {
        "schema": SCHEMA,
        "file": {
            "name": path.name,
            "bytes": path.stat().st_size,
            "sha256": digest(path),
        },
        "runtime": {"name": engine.runtime, "version": engine.runtime_version},
        "output": {"dtype": engine.output.dtype, "step": engine.output_step},
        "tolerance": _tolerance(classifier),
        "vectors": [_vector(classifier, image) for image in images],
    }
    if len(json.dumps(made)) > LARGEST:
        raise EngineError(f"golden vectors of more than {LARGEST:,} bytes; give fewer images.")
    return made


def read(path: Path) -> dict[str, Any]:
    """Return the golden vectors of a file.

    Args:
        path: of the golden file itself.

    Raises:
        EngineError: it is missing, too large, or not what :func:`make` returns.
    """
    if not path.is_file():
        raise EngineError(f"no golden vectors at {path}. Copy them beside the file.")
    with path.open("rb") as stream:
        content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise EngineError(f"{path} is larger than {LARGEST:,} bytes. It is not read.")
    try:
        found = json.loads(content)
        _check(found)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise EngineError(
            f"{path} holds no golden vectors ({error}). Make them again."
        ) from error
    return dict(found)


def png(vector: Mapping[str, Any]) -> bytes:
    """Return the encoded image of a vector.

    Raises:
        EngineError: it is no base64.
    """
    try:
        return base64.b64decode(vector["png"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise EngineError(f"a golden image is damaged ({error}). Make them again.") from error


def verify(classifier: Classifier, golden: Mapping[str, Any]) -> dict[str, Any]:
    """Run a file on its golden images; return how far it is from what it answered.

    Returns:
        ``passed``, the ``worst`` difference, the ``tolerance`` it is held against, their
        ``unit``, the number of ``vectors``, and in ``why`` one sentence where it failed.

    Raises:
        EngineError: the engine fails, or an image is damaged.
    """
    if why := of_another(classifier.path, golden):
        return {"passed": False, "why": why}
    limit = tolerance(classifier, golden)
    try:
        found = [difference(classifier, golden, one) for one in golden["vectors"]]
    except ImageError as error:
        raise EngineError(f"a golden image: {error}") from error
    worst = max(found)
    unit = golden["tolerance"]["unit"]
    passed = worst <= limit
    measured = {
        "passed": passed,
        "vectors": len(found),
        "worst": worst,
        "tolerance": limit,
        "unit": unit,
    }
    if passed:
        return measured
    number = found.index(worst)
    why = f"the logits of golden image {number} differ by {worst:g} ({unit}), over {limit:g}."
    return {**measured, "why": why}


def of_another(path: Path, golden: Mapping[str, Any]) -> str | None:
    """Say that golden vectors are not of this file, where they are not."""
    own, told = digest(path), golden["file"]["sha256"]
    if own == told:
        return None
    return f"the file's SHA-256 is {own}, the golden vectors are of {told}."


def tolerance(classifier: Classifier, golden: Mapping[str, Any]) -> float:
    """Return what may differ here: less for the same runtime, without a delegate."""
    engine = classifier.engine
    own = {"name": engine.runtime, "version": engine.runtime_version}
    same = golden["runtime"] == own and engine.delegate is None
    return float(golden["tolerance"]["same_version" if same else "other_version"])


def difference(
    classifier: Classifier, golden: Mapping[str, Any], vector: Mapping[str, Any]
) -> float:
    """Return how far an answer is from a golden one, in the unit of its tolerance."""
    logits = classifier.logits(classifier.decode(png(vector)))
    wanted = _logits(classifier, vector)
    if wanted.shape != logits.shape:
        raise EngineError("the golden vectors have another number of classes than the file.")
    apart = float(np.abs(logits - wanted).max())
    if golden["tolerance"]["unit"] == "steps":
        return float(round(apart / float(golden["output"]["step"])))
    return apart / max(float(np.abs(wanted).max()), 1e-6)


def _vector(classifier: Classifier, image: npt.NDArray[np.uint8]) -> dict[str, Any]:
    wanted = (classifier.height, classifier.width, classifier.channels)
    if image.shape != wanted or image.dtype != np.uint8:
        raise EngineError(
            f"a golden image is {image.dtype} {list(image.shape)}; give uint8 {list(wanted)}."
        )
    logits = classifier.logits(image)
    index = int(logits.argmax())
    return {
        "png": base64.b64encode(_encoded(image)).decode("ascii"),
        "index": index,
        "class": classifier.classes[index],
        "probable": _probable(classifier, logits),
        "logits": classifier.engine.output.encode(logits).tolist(),
    }


def _probable(classifier: Classifier, logits: Floats) -> list[int]:
    """Return the classes that may come first on any machine that keeps to the tolerance."""
    told = _tolerance(classifier)
    scale = classifier.engine.output_step if told["unit"] == "steps" else np.abs(logits).max()
    slack = 2 * told["other_version"] * float(scale or 0)
    return [int(index) for index in np.flatnonzero(logits >= logits.max() - slack)]


def _encoded(image: npt.NDArray[np.uint8]) -> bytes:
    from PIL import Image

    content = BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(content, "PNG")
    return content.getvalue()


def _logits(classifier: Classifier, vector: Mapping[str, Any]) -> Floats:
    spec = classifier.engine.output
    return spec.decode(np.asarray(vector["logits"], np.dtype(spec.dtype)))


def _tolerance(classifier: Classifier) -> dict[str, Any]:
    if classifier.engine.output_step:
        return _STEPS
    exact = classifier.facts.get("weights", "float32") == "float32"
    return _FLOATS if exact else _MIXED


def _check(found: Any) -> None:
    """Raise what :func:`read` catches where a key is missing or of the wrong kind."""
    if found["schema"] != SCHEMA:
        raise ValueError(f"its schema is {found['schema']!r}, {SCHEMA!r} is known")
    if found["tolerance"]["unit"] not in ("steps", "relative"):
        raise ValueError("its tolerance has an unknown unit")
    for key in ("same_version", "other_version"):
        float(found["tolerance"][key])
    if found["tolerance"]["unit"] == "steps" and not float(found["output"]["step"]) > 0:
        raise ValueError("its step is not positive")
    if not 1 <= len(found["vectors"]) <= MOST:
        raise ValueError(f"it has {len(found['vectors'])} vectors")
    _ = found["file"]["sha256"], found["runtime"]["name"]
    for one in found["vectors"]:
        _ = str(one["png"]), int(one["index"]), [int(index) for index in one["probable"]]
        _ = [float(value) for value in one["logits"]]
