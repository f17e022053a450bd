"""TFLite files: made in a child process that may crash, hang or be cut off."""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exported_nets import Residual, flat_net, judge, random_images, reference, signature, spoil

from pipeline.core.errors import PareError
from pipeline.core.plan import Demand
from pipeline.exporters import ExportFailure
from pipeline.exporters.child import MISSING
from pipeline.exporters.onnx2tf_worker import sample_images
from pipeline.exporters.to_tflite_onnx2tf import ToTfliteOnnx2Tf
from pipeline.quantizers.dynamic_range import DynamicRange
from pipeline.quantizers.float16 import Float16
from pipeline.quantizers.float32 import Float32
from pipeline.quantizers.int8 import Int8
from pipeline.runtime.engines import LiteRtEngine, open_model

SCHEMES = (Float32, Float16, DynamicRange, Int8)
NEEDED = ("tensorflow", "onnx2tf", "tf_keras", "ai_edge_litert")
ABSENT = [name for name in NEEDED if find_spec(name) is None]
converts = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")

# Written before Python starts in the child: every look beyond the process is noted.
SPY = """
import os, sys

def spy(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with open({record!r}, "a") as file:
            file.write(f"{{event}} {{arguments}}\\n")
        raise OSError("no network here")

sys.addaudithook(spy)
"""


@pytest.fixture(scope="module", params=["flat", "residual"])
def exported(request, tmp_path_factory):
    """Convert every scheme once a network, with the network cut off."""
    flat = request.param == "flat"
    model = flat_net() if flat else Residual().eval()
    images = random_images(1, 8) if flat else random_images(3, 32)
    sign = signature(1, 8, batch=None) if flat else signature(3, 32)
    folder = tmp_path_factory.mktemp("tflite")
    spied = tmp_path_factory.mktemp("spy")
    (spied / "sitecustomize.py").write_text(SPY.format(record=str(spied / "record")))
    granularity = "per-channel" if flat else "per-tensor"
    plans = [scheme.plan("tflite", Demand(granularity=granularity)) for scheme in SCHEMES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(spied))
        made = ToTfliteOnnx2Tf().write(model, plans, sign, images, folder, 240)
    files = {plan.scheme: made[plan.name] for plan in plans}
    return model, images, sign, folder, files, spied / "record"


@converts
def test_files_pass_and_a_spoiled_network_does_not(exported) -> None:
    model, images, _, _, files, _ = exported
    assert list(files) == ["float32", "float16", "dynamic_range", "int8"]
    logits = reference(model, images)
    for scheme, path in files.items():
        dtype = "fp32" if scheme == "float32" else scheme
        assert judge(path, dtype, images, logits).passed, scheme
        spoiled = reference(spoil(model, images, dtype), images)
        assert not judge(path, dtype, images, spoiled).passed, scheme


@converts
def test_flatten_keeps_the_order_of_the_network(exported) -> None:
    model, images, _, _, files, _ = exported
    engine = open_model(files["float32"])
    for axis in (2, 3):
        turned = np.ascontiguousarray(np.flip(images, axis))
        expected = reference(model, turned)
        np.testing.assert_allclose(engine.run(turned), expected, atol=1e-5)


@converts
def test_nothing_was_asked_of_the_network(exported) -> None:
    *_, folder, files, record = exported
    assert all(isinstance(path, Path) for path in files.values())
    assert not record.exists()
    assert (folder / "logs" / "onnx2tf_worker.log").is_file()


@converts
def test_weights_and_io_are_what_the_plan_says(exported) -> None:
    *_, files, _ = exported
    types = {
        "float32": "float32",
        "float16": "float16",
        "dynamic_range": "int8",
        "int8": "int8",
    }
    for scheme, path in files.items():
        engine = open_model(path)
        assert isinstance(engine, LiteRtEngine)
        assert types[scheme] in engine.tensor_dtypes()
        io_dtype = "int8" if scheme == "int8" else "float32"
        assert (engine.input.dtype, engine.output.dtype) == (io_dtype, io_dtype)
        assert (engine.input.name, engine.output.name) == ("input", "logits")
    assert "float16" not in open_model(files["float32"]).tensor_dtypes()
    assert "int8" not in open_model(files["float32"]).tensor_dtypes()


@converts
def test_int8_takes_and_gives_integers_with_their_scales(exported) -> None:
    model, images, sign, _, files, _ = exported
    engine = open_model(files["int8"])
    assert engine.input.shape == (1, sign.height, sign.width, sign.channels)
    # The scale comes from our images: it spans exactly what they hold, zero included.
    span = max(float(images.max()), 0) - min(float(images.min()), 0)
    assert engine.input.scale == pytest.approx(span / 255, rel=1e-3)
    parity = judge(files["int8"], "int8", images, reference(model, images))
    assert parity.output_scale == engine.output.scale
    assert 0 < parity.max_steps < 20


@converts
def test_granularity_reaches_the_file(exported) -> None:
    _, _, sign, _, files, _ = exported
    engine = open_model(files["int8"])
    details = engine._session._interpreter.get_tensor_details()
    # A dense layer of a per-tensor file repeats its one scale for each channel.
    counts = [len(set(d["quantization_parameters"]["scales"].tolist())) for d in details]
    assert (max(counts) > 1) == (sign.channels == 1)


@converts
def test_side_car_is_nhwc_and_one_image_a_call(exported) -> None:
    _, _, sign, folder, files, _ = exported
    for scheme, path in files.items():
        side_car = json.loads((folder / f"{path.name}.json").read_text())
        assert side_car["input_layout"] == "NHWC"
        assert side_car["input_shape"] == [1, sign.height, sign.width, sign.channels]
        assert side_car["output_shape"] == [1, 5]
        assert side_car["scheme"] == scheme
        assert (side_car["mean"], side_car["std"]) == (sign.mean, sign.std)
        assert side_car["classes"] == sign.classes
        assert (side_car["producer"], side_car["recipe_hash"]) == ("pare 0.0", "f00d")
        assert side_car.get("output_step") == open_model(path).output_step


@converts
def test_invoke_runs_for_timing(exported) -> None:
    model, images, _, _, files, _ = exported
    engine = open_model(files["float32"])
    engine.invoke()
    zeros = reference(model, np.zeros_like(images[:1]))
    np.testing.assert_allclose(engine.output.decode(engine._get()), zeros, atol=1e-5)


@converts
def test_only_finished_files_are_left_and_name_no_folder(exported) -> None:
    _, _, _, folder, files, _ = exported
    names = {path.name for path in files.values()}
    expected = names | {f"{name}.json" for name in names} | {"logs"}
    assert {path.name for path in folder.iterdir()} == expected
    for path in files.values():
        assert str(folder).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def write(folder: Path, code: str, plans=None, timeout_s: float = 30):
    """Export with a converter of the test's own making."""
    plans = plans or [Float32.plan("tflite"), Int8.plan("tflite")]
    exporter = ToTfliteOnnx2Tf(worker=(sys.executable, "-c", code))
    return exporter.write(
        flat_net(), plans, signature(1, 8), random_images(1, 8), folder, timeout_s
    )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_hanging_converter_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "open('model.float32.tflite.part', 'w').write('half')\n"
        "print('still thinking', flush=True)\n"
        "time.sleep(60)\n"
    )
    start = time.monotonic()
    files = write(tmp_path / "out", code, timeout_s=2)
    assert time.monotonic() - start < 20
    for failure in files.values():
        assert isinstance(failure, ExportFailure)
        assert "stopped after 2 s. Raise export.converter_timeout_s" in failure.reason
        assert "still thinking" in failure.log.read_text()
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    deadline = time.monotonic() + 5
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, pids))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["logs"]


def test_a_crashing_converter_leaves_its_log(tmp_path: Path) -> None:
    files = write(tmp_path, "print('\\x1b[31mno kernel for Foo\\x1b[0m'); raise SystemExit(9)")
    assert set(files) == {"float32", "int8"}
    for failure in files.values():
        assert failure.reason == "the converter ended with code 9: no kernel for Foo"
        assert "no kernel for Foo" in failure.log.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_a_converter_killed_by_a_signal_is_a_failure(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    failure = write(tmp_path, code)["float32"]
    assert failure.reason == "the converter ended with code -11: it said nothing"


def test_one_scheme_may_fail_alone(tmp_path: Path) -> None:
    code = (
        "open('model.int8.tflite.error', 'w').write('Traceback\\nValueError: no int8 kernel')"
    )
    files = write(tmp_path, code)
    assert files["int8"].reason == "the converter cannot write it: ValueError: no int8 kernel"
    assert files["float32"].reason.startswith("the converter ended with code 0")


def test_missing_packages_name_the_extra(tmp_path: Path) -> None:
    code = f"print(\"No module named 'onnx2tf'\"); raise SystemExit({MISSING})"
    for failure in write(tmp_path, code).values():
        assert "No module named 'onnx2tf'" in failure.reason
        assert 'pip install "pare[onnx2tf]"' in failure.reason


def test_the_worker_says_which_package_is_missing(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import sys\nsys.modules['onnx2tf'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hide"))
    plans = [Float32.plan("tflite")]
    images = random_images(1, 8)
    files = ToTfliteOnnx2Tf().write(
        flat_net(), plans, signature(1, 8), images, tmp_path / "out", 60
    )
    assert "onnx2tf" in files["float32"].reason
    assert 'pip install "pare[onnx2tf]"' in files["float32"].reason


@converts
def test_a_broken_file_does_not_land(tmp_path: Path) -> None:
    code = "open('model.float32.tflite', 'w').write('not a model')"
    failure = write(tmp_path, code, [Float32.plan("tflite")])["float32"]
    assert "cannot load it" in failure.reason
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@converts
def test_a_file_that_only_claims_to_be_quantized_does_not_land(
    exported, tmp_path: Path
) -> None:
    *_, files, _ = exported
    source = str(files["float32"])
    for plan in (DynamicRange.plan("tflite"), Float16.plan("tflite")):
        code = f"import shutil; shutil.copy({source!r}, {plan.file_name!r})"
        failure = write(tmp_path, code, [plan])[plan.scheme]
        assert f"no tensor is {plan.weights}" in failure.reason
    assert not list(tmp_path.glob("model.*"))


def test_refusals_come_before_any_work(tmp_path: Path) -> None:
    plans, images = [Float32.plan("onnx")], random_images(1, 8)
    with pytest.raises(PareError, match="a plan is for 'onnx', this exporter writes 'tflite'"):
        ToTfliteOnnx2Tf().write(
            flat_net(), plans, signature(1, 8), images, tmp_path / "out", 9
        )
    assert not (tmp_path / "out").exists()


def test_no_plans_make_no_files(tmp_path: Path) -> None:
    images = random_images(1, 8)
    assert (
        ToTfliteOnnx2Tf().write(flat_net(), [], signature(1, 8), images, tmp_path / "out", 9)
        == {}
    )


def test_sample_images_are_ours() -> None:
    images = np.arange(2 * 8 * 6 * 1, dtype=np.float32).reshape(2, 8, 6, 1)
    sample = sample_images(images)
    assert sample.shape == (20, 128, 128, 3)
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample[0], sample[2])
    np.testing.assert_array_equal(np.unique(sample), np.unique(images))
