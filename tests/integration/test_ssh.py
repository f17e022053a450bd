"""Files are measured on a real ssh server on this machine, and nothing is left behind."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fast_run import pare
from tiny_files import onnx_file, tflite_file

from pipeline.core.errors import PareError
from pipeline.profilers.transports.ssh import Ssh
from pipeline.runtime.harness import Settings

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
QUICK = Settings(warmup_runs=1, warmup_s=0, runs=100, seconds=0, repeats=2, operators=False)
LONG = Settings(warmup_runs=1, warmup_s=0, runs=100, seconds=60, repeats=1, operators=False)

pytestmark = pytest.mark.skipif(
    not (Path(SSHD).is_file() and shutil.which("ssh-keygen")),
    reason="no ssh server is installed (apt install openssh-server)",
)


def quiet(_event):
    """Hear nothing."""


class Board:
    """An ssh server with a key of its own, on a free port of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.scratch = folder, folder / "scratch"
        self.scratch.mkdir()
        self.key, self.known = folder / "id", folder / "known_hosts"
        for name in ("id", "host"):
            line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(line, check=True)
        shutil.copy(folder / "id.pub", folder / "authorized")
        (folder / "authorized").chmod(0o600)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        kind, key = (folder / "host.pub").read_text().split()[:2]
        self.known.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        self.start()

    def start(self, **environment: str) -> None:
        """Start the server; the environment is what a login there gets."""
        given = {"TMPDIR": str(self.scratch), **environment}
        settings = [
            f"Port {self.port}", "ListenAddress 127.0.0.1", "UsePAM no", "StrictModes no",
            f"HostKey {self.folder / 'host'}", f"PidFile {self.folder / 'pid'}",
            f"AuthorizedKeysFile {self.folder / 'authorized'}", "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            "SetEnv " + " ".join(f'{k}="{v}"' for k, v in given.items()),
        ]  # fmt: skip
        (self.folder / "config").write_text("\n".join(settings) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True) if os.geteuid() == 0 else None
        self.server = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(self.folder / "config")], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the ssh server does not answer")

    def stop(self) -> None:
        self.server.terminate()
        self.server.wait(timeout=10)

    def cut(self) -> None:
        """Break every connection off, as a pulled cable does, from the server's side."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.server.pid)], capture_output=True, text=True, check=False
        )
        for pid in found.stdout.split():
            os.kill(int(pid), signal.SIGKILL)

    def way(self, python: str = sys.executable) -> Ssh:
        address = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        way = Ssh(address, known_hosts=str(self.known), identity=self.key)
        way.python = python
        return way

    def left(self) -> list[str]:
        """What lies in the folder for scratch, once what still runs there had time to end."""
        deadline = time.monotonic() + 15
        while any(self.scratch.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return [path.name for path in self.scratch.iterdir()]


@pytest.fixture
def board(tmp_path):
    """A board that answers, and is gone when the test is over."""
    (tmp_path / "board").mkdir()
    board = Board(tmp_path / "board")
    yield board
    board.stop()


@pytest.mark.parametrize("make", [onnx_file, tflite_file])
def test_a_file_is_measured_and_nothing_is_left(board, tmp_path, make):
    path = make(tmp_path / f"a.{'onnx' if make is onnx_file else 'tflite'}")
    events = []
    found = board.way().measure(path, QUICK, events.append)
    assert found["timing"]["n"] == 200
    assert found["file"]["name"] == path.name
    assert len(events) == 4
    assert board.left() == []


@pytest.mark.parametrize(
    "name",
    ["a b.onnx", "$(touch hacked).onnx", "'; touch hacked; '.onnx", "-rf.onnx", "é\n.onnx"],
)
def test_a_hostile_file_name_never_reaches_a_shell(board, tmp_path, name):
    path = onnx_file(tmp_path / name)
    assert board.way().measure(path, QUICK, quiet)["file"]["name"] == name
    assert not list(tmp_path.rglob("hacked"))
    assert not (Path.home() / "hacked").exists()
    assert board.left() == []


def test_another_host_key_is_refused_before_anything_is_sent(board, tmp_path):
    path = onnx_file(tmp_path / "a.onnx")
    other = (board.folder / "id.pub").read_text().split()[:2]
    board.known.write_text(f"[127.0.0.1]:{board.port} {' '.join(other)}\n")
    with pytest.raises(PareError, match=r"host key .* Nothing was sent"):
        board.way().measure(path, QUICK, quiet)
    board.known.write_text("")
    with pytest.raises(PareError, match=r"none is known\. Nothing was sent.*ssh-keyscan"):
        board.way().measure(path, QUICK, quiet)
    assert board.known.read_text() == ""  # and none was learnt
    assert board.left() == []


def test_a_key_that_is_not_taken_is_told(board, tmp_path):
    (board.folder / "authorized").write_text("")
    with pytest.raises(PareError, match=r"does not take this key.*--identity"):
        board.way().measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)


def test_a_board_that_is_not_there_is_told(board, tmp_path):
    way = board.way()
    board.stop()
    with pytest.raises(PareError, match=r"no connection .*[Rr]efused.*Check the address"):
        way.measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)
    board.start()


def test_a_lost_connection_ends_the_work_over_there(board, tmp_path):
    path = onnx_file(tmp_path / "a.onnx")
    cut = threading.Event()

    def tell(event):
        if not cut.is_set() and event["state"] == "begin":
            assert any(board.scratch.iterdir())  # it is at work
            cut.set()
            threading.Thread(target=board.cut).start()

    with pytest.raises(PareError, match=r"connection was lost while it measured.*Nothing was"):
        board.way().measure(path, LONG, tell)
    assert cut.is_set()
    assert board.left() == []


def test_a_stopped_profile_leaves_nothing_on_either_side(board, tmp_path):
    """SIGKILL of the whole program half-way: no result, no process, no folder."""
    path, out = onnx_file(tmp_path / "a.onnx"), tmp_path / "out.json"
    target = str(own(tmp_path, board))
    line = [
        sys.executable, "-m", "pipeline.cli", "profile", str(path), "--target", target, "--on",
        f"ssh://{getpass.getuser()}@127.0.0.1:{board.port}", "--identity",
        str(board.key), "--seconds", "60", "--out", str(out),
    ]  # fmt: skip
    started = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(board.scratch.glob("*/model.onnx")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert any(board.scratch.iterdir())
    started.kill()
    started.wait()
    assert board.left() == []
    assert not out.exists()
    assert list(tmp_path.glob("out*")) == []


def test_a_full_disk_over_there_is_told(board, tmp_path):
    if os.geteuid() != 0 or subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(board.scratch)],
        check=False, capture_output=True,
    ).returncode:  # fmt: skip
        pytest.skip("no small disk can be mounted here")
    try:
        with pytest.raises(
            PareError, match=r"disk is full there .*(No space left|Wrote only)"
        ):
            board.way().measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)
        assert board.left() == []
    finally:
        subprocess.run(["umount", str(board.scratch)], check=True)


def test_a_folder_that_is_not_there_is_told(board, tmp_path):
    way = board.way()
    way.folder = "/nowhere/at all"
    with pytest.raises(PareError, match=r"no scratch folder .* transport\.folder"):
        way.measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)


def test_a_board_without_python_is_told(board, tmp_path):
    with pytest.raises(PareError, match=r"no Python there under that name.*--benchmark-model"):
        board.way("python9").measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)
    assert board.left() == []


@pytest.mark.parametrize("missing", ["numpy", "onnxruntime"])
def test_a_board_without_the_runtime_is_told(board, tmp_path, missing):
    bare = tmp_path / "bare-python"
    hide = (
        "import sys, runpy\n"
        f"sys.modules[{missing!r}] = None\n"
        "if sys.argv[1] == '-c':\n"
        "    exec(sys.argv[2])\n"
        "else:\n"
        "    sys.argv = sys.argv[1:]\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    (tmp_path / "hide.py").write_text(hide)
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path / "hide.py"} "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(PareError, match=rf"ssh://.*{missing}.* not installed.*[Ii]nstall"):
        board.way(str(bare)).measure(onnx_file(tmp_path / "a.onnx"), QUICK, quiet)
    assert board.left() == []


def own(folder: Path, board: Board) -> Path:
    """A target's file of this very machine behind ssh."""
    text = f"""
schema = "edge-target/1"
id = "this-machine"
name = "This machine behind ssh"
class = "sbc"
[platform]
os = "linux"
arch = "{os.uname().machine}"
[constraints]
basis = "assumed"
source = "test"
formats = ["onnx", "tflite"]
dtypes = ["fp32", "int8"]
[[runtimes]]
name = "onnxruntime"
threads = [1]
default_threads = 1
[profile]
cooldown_s = 0
[transport]
kind = "ssh"
known_hosts = {json.dumps(str(board.known))}
python = {json.dumps(sys.executable)}
"""
    path = folder / "own.toml"
    path.write_text(text)
    return path


def test_the_command_measures_there_and_compares_the_answers(board, tmp_path):
    path, out = onnx_file(tmp_path / "a.onnx"), tmp_path / "profile.json"
    done = pare(
        "profile", str(path), "--target", str(own(tmp_path, board)), "--on",
        f"ssh://{getpass.getuser()}@127.0.0.1:{board.port}", "--identity", str(board.key),
        "--seconds", "0", "--repeats", "2", "--out", str(out),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "equal to the bit with this machine's on 4 inputs" in done.output
    found = json.loads(out.read_text())
    assert found["complete"] is True
    assert found["stranger"] is None
    assert found["agreement"]["equal"] is True
    assert found["measured"]["median"]["n"] == 200
    assert found["verdict"]["candidate"]["measured"]["basis"] == "measured"
    assert board.left() == []
