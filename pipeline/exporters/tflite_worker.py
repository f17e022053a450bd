"""The child process that turns ONNX into TFLite: files in, files out, no network.

Run as ``python -m pipeline.exporters.tflite_worker request.json`` in a scratch folder.
Each file appears under its final name only when it is whole; a scheme that cannot be
written leaves ``<file>.error`` instead.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.plan import SchemePlan

MISSING = 3  # exit code: a package of the tflite extra is not installed

# onnx2tf looks for this name in the working directory and downloads it otherwise, even
# where it would not be used; the values only serve its search for the order of axes.
_SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


def main(arguments: list[str]) -> int:
    """Convert what the request asks for and return the exit code."""
    sys.addaudithook(_refuse_network)
    request = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    images = np.load(request["calibration"], allow_pickle=False)
    np.save(_SAMPLE, sample_images(images))
    try:
        import onnx2tf
        import tensorflow as tf
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    keras = onnx2tf.convert(
        input_onnx_file_path=request["onnx"],
        output_folder_path="onnx2tf",
        # The graph is optimized already, and onnxsim would be a program to find on PATH.
        not_use_onnxsim=True,
        # It would otherwise convert twice by its own settings; all conversion is ours.
        disable_model_save=True,
        non_verbose=True,
    )
    names = request["input_name"], request["output_name"]
    owner, function = _entry_point(tf, keras, *names)
    for values in request["plans"]:
        plan = SchemePlan.model_validate(values)
        _write(tf, owner, function, plan, images, names[0])
    return 0


def sample_images(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return 20 images ``[20, 128, 128, 3]`` made of calibration images ``[n, h, w, c]``.

    >>> sample_images(np.zeros((2, 8, 6, 1), np.float32)).shape
    (20, 128, 128, 3)
    """
    count, height, width, channels = images.shape
    which = np.ix_(
        np.arange(20) % count,
        np.arange(128) * height // 128,
        np.arange(128) * width // 128,
        np.arange(3) % channels,
    )
    return images[which]


def _refuse_network(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise PermissionError(
            f"the converter tried to reach the network: {event} {arguments!r}"
        )


def _entry_point(tf: Any, keras: Any, input_name: str, output_name: str) -> tuple[Any, Any]:
    """Give the network one entry whose input and output have our names."""
    shape = keras.inputs[0].shape
    spec = tf.TensorSpec(shape, tf.float32, name=input_name)
    serve = tf.function(lambda image: {output_name: keras(image)}, input_signature=[spec])
    owner = tf.Module()
    owner.keras = keras
    return owner, serve.get_concrete_function()


def _write(
    tf: Any,
    owner: Any,
    function: Any,
    plan: SchemePlan,
    images: npt.NDArray[np.float32],
    input_name: str,
) -> None:
    made = Path(plan.file_name)
    try:
        content = _convert(tf, owner, function, plan, images, input_name)
    except Exception:  # the converter raises anything; the other schemes go on
        error = traceback.format_exc()
        sys.stderr.write(error)
        made.with_name(f"{made.name}.error").write_text(error, encoding="utf-8")
        return
    part = made.with_name(f"{made.name}.part")
    part.write_bytes(content)
    part.replace(made)


def _convert(
    tf: Any,
    owner: Any,
    function: Any,
    plan: SchemePlan,
    images: npt.NDArray[np.float32],
    input_name: str,
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if plan.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if plan.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if plan.granularity == "per-tensor":
        converter._experimental_disable_per_channel = True
    if plan.activations == "int8":
        converter.representative_dataset = lambda: _one_by_one(images, input_name)
        # Nothing else: an operator without an integer kernel is an error, not a detour.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def _one_by_one(
    images: npt.NDArray[np.float32], name: str
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    for index in range(len(images)):
        yield {name: images[index : index + 1]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
