"""Processes as the launcher starts them, without a network: they do what they are asked."""

from __future__ import annotations

import os
import signal
import sys
import time

from pipeline.core.errors import PareError
from pipeline.training.member import member


def work(request, say):
    """Act as the request's entry for this rank says."""
    rank = int(os.environ["RANK"])
    act = request["acts"][rank]
    os.write(1, b"a library prints\n")
    say({"rank": rank, "pid": os.getpid(), "world": os.environ["WORLD_SIZE"]})
    if act == "refuse":
        raise PareError("it cannot be done")
    if act == "crash":
        raise ZeroDivisionError("a bug")
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "late crash":
        time.sleep(0.5)
        raise ZeroDivisionError("a bug of another")
    if act == "wait":
        time.sleep(600)


if __name__ == "__main__":
    sys.exit(member(work))
