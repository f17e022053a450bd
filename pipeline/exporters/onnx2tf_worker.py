"""The child process that turns ONNX into TFLite by onnx2tf and TensorFlow.

Run as ``python -m pipeline.exporters.onnx2tf_worker request.json`` in a scratch folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.plan import SchemePlan
from pipeline.exporters import SPARSE
from pipeline.exporters.child import MISSING, Request, write_each

# onnx2tf looks for this name in the working directory and downloads it otherwise, even
# where it would not be used; the values only serve its search for the order of axes.
_SAMPLE = "calibration_image_sample_data_20x128x128x3_float32.npy"


def main(arguments: list[str]) -> int:
    """Convert what the request asks for and return the exit code."""
    request = Request.read(Path(arguments[0]))
    np.save(_SAMPLE, sample_images(request.calibration))
    try:
        import onnx2tf
        import tensorflow as tf
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    keras = onnx2tf.convert(
        input_onnx_file_path=str(request.source),
        output_folder_path="onnx2tf",
        # The graph is optimized already, and onnxsim would be a program to find on PATH.
        not_use_onnxsim=True,
        # It would otherwise convert twice by its own settings; all conversion is ours.
        disable_model_save=True,
        non_verbose=True,
    )
    owner, function = _entry_point(tf, keras, request.input_name, request.output_name)

    def convert(plan: SchemePlan) -> bytes:
        return _convert(tf, owner, function, plan, request)

    write_each(request.plans, convert)
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


def _entry_point(tf: Any, keras: Any, input_name: str, output_name: str) -> tuple[Any, Any]:
    """Give the network one entry whose input and output have our names."""
    shape = keras.inputs[0].shape
    spec = tf.TensorSpec(shape, tf.float32, name=input_name)
    serve = tf.function(lambda image: {output_name: keras(image)}, input_signature=[spec])
    owner = tf.Module()
    owner.keras = keras
    return owner, serve.get_concrete_function()


def _convert(tf: Any, owner: Any, function: Any, plan: SchemePlan, request: Request) -> bytes:
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], owner)
    if plan.variant == SPARSE:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    elif plan.weights != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if plan.weights == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if plan.granularity == "per-tensor":
        converter._experimental_disable_per_channel = True
    if plan.is_calibrated:
        ops = tf.lite.OpsSet
        # Without names: of some networks TensorFlow loses the signature that holds them.
        converter.representative_dataset = lambda: ([image] for image in request.one_by_one())
        # Nothing else: an operator without an integer kernel is an error, not a detour.
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
            if plan.activations == "int16"
            else ops.TFLITE_BUILTINS_INT8
        ]
        converter.inference_input_type = getattr(tf, plan.input_dtype)
        converter.inference_output_type = getattr(tf, plan.output_dtype)
    return bytes(converter.convert())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
