"""One of the processes that ``launcher`` starts: its request, its messages, its end."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from pipeline.core.errors import PareError

Say = Callable[[dict[str, Any]], None]
REFUSED = 2  # exit code, as that of the command line


def member(work: Callable[[dict[str, Any], Say], None]) -> int:
    """Do what standard input asks for and return the exit code.

    What is printed on the way, by libraries or the user's code, goes to standard error:
    standard output belongs to the messages. The process ends with its standard input, which
    the one that started it holds open.

    Args:
        work: called with the request and a function that sends a message.
    """
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    try:
        work(request, say)
    except PareError as error:
        say({"refused": str(error)})
        return REFUSED
    return 0


def _end_with_input() -> None:
    """End at once when nobody holds the other end of standard input any longer."""
    while os.read(0, 4096):
        continue
    os._exit(1)
