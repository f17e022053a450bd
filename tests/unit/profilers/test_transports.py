"""Ways to a machine: what is started, and what is said when it fails."""

import os
import platform
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_files import onnx_file, tflite_file

from pipeline.core.errors import PareError
from pipeline.core.target import Target
from pipeline.profilers.transports.adb import Adb
from pipeline.profilers.transports.container import Container
from pipeline.profilers.transports.local import Local
from pipeline.profilers.transports.opening import transport
from pipeline.profilers.transports.payload import archive, explain, script
from pipeline.profilers.transports.ssh import Ssh
from pipeline.profilers.transports.talk import Said, talk
from pipeline.runtime.harness import Settings

QUICK = Settings(warmup_runs=1, warmup_s=0, runs=100, seconds=0, repeats=1, operators=False)


def quiet(_event):
    """Hear nothing."""


def said(code=0, stderr="", events=0, error=None):
    return Said(code=code, result=None, error=error, text="", stderr=stderr, events=events)


def program(folder, name, text):
    """Put a program in front of all others of its name."""
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# --- talking to a child -------------------------------------------------------------------


def python(code):
    return [sys.executable, "-c", code]


def test_events_come_while_the_child_works_and_other_lines_are_kept():
    events = []
    code = """
import json
print("Welcome to the board")
print(json.dumps({"event": "window", "n": 1}), flush=True)
print(json.dumps([1]))
print(json.dumps({"event": "result", "result": {"complete": True}}))
"""
    found = talk(python(code), tell=events.append, timeout_s=30)
    assert events == [{"event": "window", "n": 1}]
    assert found.result == {"complete": True}
    assert found.text == "Welcome to the board\n[1]\n"
    assert (found.code, found.error, found.events) == (0, None, 1)


def test_a_child_that_hangs_is_stopped_with_its_children(tmp_path):
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    with pytest.raises(PareError, match="no result after 2 s"):
        talk(python(code), tell=quiet, timeout_s=2)
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_there(pid)


def is_there(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_that_never_ends_its_line_is_not_believed(monkeypatch):
    monkeypatch.setattr("pipeline.profilers.transports.talk._LONGEST", 10_000)
    code = "import sys\nwhile True: sys.stdout.write('x' * 1000)"
    with pytest.raises(PareError, match="more than 10,000 characters"):
        talk(python(code), tell=quiet, timeout_s=30)


def test_a_program_that_is_not_there_is_told():
    with pytest.raises(PareError, match=r"no-such-program can't be started .* Install it"):
        talk(["no-such-program"], tell=quiet, timeout_s=5)


def test_much_complaint_does_not_block_the_child():
    code = "import sys; sys.stderr.write('x' * 1_000_000 + 'end'); sys.exit(3)"
    found = talk(python(code), tell=quiet, timeout_s=30)
    assert found.code == 3
    assert found.stderr.endswith("end")
    assert len(found.stderr) <= 20_000


# --- this machine -------------------------------------------------------------------------


def test_this_machine_measures_in_a_process_of_its_own(tmp_path):
    found = Local().measure(tflite_file(tmp_path / "a b.tflite"), QUICK, quiet)
    assert found["timing"]["n"] == 100
    assert found["memory"]["peak_bytes"] < 500e6  # torch would be more


def test_what_lies_in_the_current_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    assert Local().measure(tflite_file(tmp_path / "a.tflite"), QUICK, quiet)["complete"]


def test_a_file_that_kills_its_engine_is_told(tmp_path, monkeypatch):
    path = tflite_file(tmp_path / "a.tflite")
    killer = program(tmp_path, "python", "import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(PareError, match=r"without a result \(exit code -11\).*may have crash"):
        Local().measure(path, QUICK, quiet)


# --- what is sent -------------------------------------------------------------------------


def run_script(text, payload, scratch, **environment):
    own = {**os.environ, "TMPDIR": str(scratch), **environment}
    return talk(["/bin/sh", "-c", text], tell=quiet, timeout_s=60, payload=payload, env=own)


def packed(tmp_path, **changes):
    (tmp_path / "scratch").mkdir(exist_ok=True)
    payload, name = archive(tflite_file(tmp_path / "a.tflite"))
    options = {"python": sys.executable, "folder": None, **changes}
    return payload, script(payload, name, QUICK, **options), tmp_path / "scratch"


def test_harmed_on_the_way_is_noticed_and_removed(tmp_path):
    payload, text, scratch = packed(tmp_path)
    spoiled = payload[:-1] + bytes([payload[-1] ^ 1])
    assert run_script(text, spoiled, scratch).code == 73
    cut = subprocess.run(  # the connection ends within it
        ["/bin/sh", "-c", text], input=payload[:-1], capture_output=True, check=False,
        env={**os.environ, "TMPDIR": str(scratch)},
    )  # fmt: skip
    assert cut.returncode == 73
    assert run_script(text, payload, scratch).result["complete"]
    assert list(scratch.iterdir()) == []


def test_a_folder_of_any_name_is_quoted(tmp_path):
    folder = tmp_path / "a $(touch hacked) b"
    folder.mkdir()
    payload, text, scratch = packed(tmp_path, folder=str(folder))
    done = run_script(text, payload, scratch)
    assert done.result["complete"]
    assert list(folder.iterdir()) == []
    assert not list(tmp_path.rglob("hacked"))


def test_without_tar_over_there_it_is_told(tmp_path):
    payload, text, scratch = packed(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "mktemp", "head", "rm"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    done = run_script(text, payload, scratch, PATH=str(tools))
    assert done.code == 76
    told = explain(done, "board")
    assert told == (
        "board: it lacks a tool that the transfer needs (no tar). Install coreutils and tar, "
        "or busybox."
    )


def external(path, location):
    """A file whose weight is stored beside it."""
    weight = numpy_helper.from_array(np.ones(8, np.float32), "w")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    weight.ClearField("raw_data")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "beside",
        [value("x", TensorProto.FLOAT, [8])], [value("y", TensorProto.FLOAT, [8])], [weight],
    )  # fmt: skip
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_weights_stored_beside_a_file_go_with_it(tmp_path):
    path = external(tmp_path / "a.onnx", "a.data")
    with pytest.raises(PareError, match=r"weights in a\.data, which is not there"):
        archive(path)
    (tmp_path / "a.data").write_bytes(b"\0" * 32)
    assert b"a.data" in archive(path)[0]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "-x", "a b", "pare-runtime.pyz"])
def test_weights_stored_elsewhere_are_not_fetched(tmp_path, name):
    with pytest.raises(PareError, match="no plain name beside it"):
        archive(external(tmp_path / "a.onnx", name))


def test_only_model_files_are_sent(tmp_path):
    (tmp_path / "a.txt").write_text("secret")
    for name in ("a.txt", "none.onnx"):
        with pytest.raises(PareError, match=r"an \.onnx or \.tflite file is needed"):
            archive(tmp_path / name)


# --- ssh ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "ssh://-oProxyCommand=touch x@host", "ssh://a@-host", "ssh://a b@host", "ssh://",
        "ssh://host/path", "ssh://host:99999999", "ssh://host;touch x", "pi@host", "ssh://a@b@c",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(PareError, match=r"is no address\. Write ssh://user@host"):
        Ssh(address)


def test_ssh_asks_nothing_and_trusts_nobody_new():
    line = Ssh("ssh://pi@[fe80::1]:2222", known_hosts="~/known").command("echo 'hi'; ls")
    options = [line[i + 1] for i, part in enumerate(line) if part == "-o"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"} <= set(options)
    assert f"UserKnownHostsFile={os.path.expanduser('~/known')}" in options  # noqa: PTH111
    assert line[-5:-2] == ["-p", "2222", "--"]
    assert line[-2] == "pi@fe80::1"
    assert line[-1] == """sh -c 'echo '"'"'hi'"'"'; ls'"""


# --- adb ----------------------------------------------------------------------------------

_ADB = """
import os, subprocess, sys
assert sys.argv[1:3] == ["-s", "emulator-5554"], sys.argv
assert sys.argv[3:5] == ["shell", "-T"]
text = sys.argv[5].replace("/data/local/tmp", os.environ["FAKE_TMP"])
sys.exit(subprocess.run(["sh", "-c", text]).returncode)
"""


def test_a_phone_with_python_is_measured_by_adb(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    (tmp_path / "phone").mkdir()
    program(tmp_path / "bin", "adb", _ADB)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_TMP", str(tmp_path / "phone"))
    way = Adb("adb:emulator-5554")
    way.python = sys.executable
    assert way.measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)["timing"]["n"] == 100
    assert list((tmp_path / "phone").iterdir()) == []


@pytest.mark.parametrize("serial", ["", "-s", "a b", "a;b", "$(x)", "a\nb"])
def test_what_is_no_serial_is_refused(serial):
    with pytest.raises(PareError, match=r"is no device\. Write adb:SERIAL"):
        Adb(f"adb:{serial}")


@pytest.mark.parametrize(
    ("stderr", "told"),
    [
        ("error: device 'X1' not found", "adb knows no such device"),
        ("error: device unauthorized.", "has not allowed this computer"),
        ("error: device offline", "does not answer"),
    ],
)
def test_what_adb_complains_of_is_said(stderr, told):
    assert told in Adb("adb:X1").blame(said(1, stderr))
    assert Adb("adb:X1").blame(said(1, "killed")) is None


# --- containers ---------------------------------------------------------------------------


@pytest.fixture
def on_x86(monkeypatch):
    """A machine that has to emulate Arm, and shows no core of its own choice."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("QEMU_CPU", raising=False)


def test_a_container_gets_no_network_and_no_rights(tmp_path, monkeypatch, on_x86):
    program(tmp_path, "podman", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = Container("container:linux/arm64", image="edge:1").command("true")
    assert line[:3] == ["podman", "run", "--rm"]
    assert {"--read-only", "ALL", "no-new-privileges", "linux/arm64"} <= set(line)
    assert line[line.index("--network") + 1] == "none"
    assert "/sys/devices/system/cpu" in line
    assert "QEMU_CPU=cortex-a72" in line
    assert line[-3:] == ["edge:1", "-c", "true"]


def test_each_architecture_is_shown_a_core_of_its_own(tmp_path, monkeypatch, on_x86):
    program(tmp_path, "podman", "")
    monkeypatch.setenv("PATH", str(tmp_path))

    def shown(address, image):
        line = Container(address, image=image).command("true")
        return [part for part in line if part.startswith("QEMU_CPU=")]

    for image in ("edge:1", str(tmp_path)):
        assert shown("container:linux/arm64", image) == ["QEMU_CPU=cortex-a72"]
        assert shown("container:linux/arm/v7", image) == ["QEMU_CPU=cortex-a15"]
        assert shown("container:linux/arm", image) == ["QEMU_CPU=cortex-a15"]
        assert shown("container:linux/amd64", image) == []
    monkeypatch.setenv("QEMU_CPU", "cortex-a53")
    assert shown("container:linux/arm64", "edge:1") == ["QEMU_CPU=cortex-a53"]


def test_the_processor_of_a_container_that_is_not_emulated_is_seen(
    tmp_path, monkeypatch, on_x86
):
    program(tmp_path, "podman", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    line = Container("container:linux/amd64", image="edge:1").command("true")
    assert "/sys/devices/system/cpu" not in line


@pytest.mark.parametrize(
    "address", ["container:", "container:linux", "container:-x/y", "docker"]
)
def test_what_is_no_platform_is_refused(address):
    with pytest.raises(PareError, match=r"is no platform\. Write container:linux/arm64"):
        Container(address, image="edge:1")


def test_a_container_needs_an_image_and_an_engine(tmp_path, monkeypatch):
    with pytest.raises(PareError, match="needs --image"):
        Container("container:linux/arm64", image=None)
    with pytest.raises(PareError, match="no folder and no reference"):
        Container("container:linux/arm64", image="--privileged")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PareError, match="neither docker nor podman"):
        Container("container:linux/arm64", image="edge:1").command("true")


def test_a_folder_is_entered_with_a_core_that_exists(tmp_path, monkeypatch, on_x86):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    line = Container("container:linux/arm64", image=str(tmp_path)).command("true")
    assert line[:3] == ["unshare", "--user", "--map-root-user"]
    assert "QEMU_CPU=cortex-a72" in line
    assert line[-5:] == ["chroot", str(tmp_path), "/bin/sh", "-c", "true"]


# --- behind --on --------------------------------------------------------------------------


def test_the_machine_behind_on():
    pi = Target.load("raspberry-pi-4b")
    assert isinstance(transport("local", pi), Local)
    found = transport("ssh", pi, environment={"EDGE_PI_HOST": "pi@kitchen"})
    assert (type(found), found.name, found.python) == (Ssh, "ssh://pi@kitchen", "python3")
    assert isinstance(transport("adb:X1", pi), Adb)
    with pytest.raises(PareError, match=r"EDGE_PI_HOST,\s+which is not set"):
        transport("ssh", pi, environment={})
    with pytest.raises(PareError, match="raspberry-pi-4b does not say where it is"):
        transport("adb", pi, environment={})
    with pytest.raises(PareError, match=r"names no machine\. Write local, ssh://"):
        transport("telnet://pi", pi)
