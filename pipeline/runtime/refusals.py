"""A request that is not served: its status, and one sentence in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus


class Refusal(Exception):
    """What a client gets instead of an answer.

    Args:
        status: of HTTP, 400 or above.
        message: one sentence.
        headers: that go with it.
    """

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        r"""Return the refusal as JSON.

        >>> Refusal(404, "no such route.").body()
        b'{"error": {"status": 404, "message": "no such route."}}\n'
        """
        told = {"error": {"status": self.status, "message": self.message}}
        return json.dumps(told).encode() + b"\n"


def status_line(status: int) -> str:
    """Return a status with its name.

    >>> status_line(404)
    '404 Not Found'
    """
    return f"{status} {HTTPStatus(status).phrase}"
