"""Processes that are started together, say what they have to say, and end together."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.errors import PareError
from pipeline.training.launcher import ProcessError, run_processes

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _members_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))


def run(*acts, hear=None):
    """Run a process for each act; return what they said, and what was raised."""
    heard, error = [], None
    try:
        run_processes("members", {"acts": acts}, len(acts), hear or heard.append)
    except (PareError, ProcessError, KeyboardInterrupt) as raised:
        error = raised
    return heard, error


def alive(pid):
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(pids, seconds=15):
    until = time.monotonic() + seconds
    while any(alive(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(alive(pid) for pid in pids)


def test_each_knows_its_place_and_is_heard():
    heard, error = run("end", "end", "end")
    assert error is None
    assert sorted((one["rank"], one["world"]) for one in heard) == [
        (0, "3"), (1, "3"), (2, "3"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("acts", "kind", "words"),
    [
        (("wait", "refuse"), PareError, r"^it cannot be done$"),
        (("kill", "wait"), PareError, r"^training process 0 of 2 was ended by SIGKILL"),
        (("wait", "crash"), ProcessError, r"(?s)1 of 2 failed.*library prints.*a bug$"),
        # Whose fault it is counts, not who was first to suffer from it.
        (("crash", "refuse"), PareError, "it cannot be done"),
        (("late crash", "kill"), PareError, "process 1 of 2 was ended by SIGKILL"),
    ],
)  # fmt: skip
def test_one_that_fails_ends_all_and_says_why(acts, kind, words):
    heard, error = run(*acts)
    assert isinstance(error, kind)
    assert re.search(words, str(error)), str(error)
    assert len(heard) == 2
    assert not any(alive(one["pid"]) for one in heard)


def test_a_module_that_cannot_be_loaded_is_shown():
    with pytest.raises(ProcessError, match="No module named no_such_member"):
        run_processes("no_such_member", {}, 2, print)


def test_ctrl_c_ends_them_all():
    pids = []

    def interrupted(message):
        pids.append(message["pid"])
        if len(pids) == 2:
            raise KeyboardInterrupt

    _, error = run("wait", "wait", hear=interrupted)
    assert isinstance(error, KeyboardInterrupt)
    assert not any(alive(pid) for pid in pids)


def test_they_end_with_the_process_that_started_them():
    """Killed, it can end nobody; each notices by its standard input."""
    script = (
        "from pipeline.training.launcher import run_processes\n"
        "run_processes('members', {'acts': ['wait', 'wait']}, 2, "
        "lambda message: print(message['pid'], flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )
    with parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in pids)
        os.kill(parent.pid, signal.SIGKILL)
        assert gone(pids)


def test_they_meet_on_loopback_only():
    seen = set()
    run("end", hear=lambda message: seen.update(_listening(os.getpid())))
    assert seen == {"0100007F"}  # 127.0.0.1


def _listening(pid):
    """Yield the addresses a process listens on, as the kernel writes them."""
    paths = [path for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    links = [str(path.readlink()) for path in paths]
    own = {link[8:-1] for link in links if link.startswith("socket:[")}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in own:
                yield fields[1].partition(":")[0]
