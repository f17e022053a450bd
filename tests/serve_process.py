"""``pare-runtime serve`` in a process of its own, on a free port."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Served:
    """A running server and a client of it."""

    def __init__(self, process: subprocess.Popen[str], port: int, ready_s: float) -> None:
        self.process, self.port, self.ready_s = process, port, ready_s

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "image/png"
    ) -> tuple[int, bytes]:
        """Return status and body, over a connection of its own."""
        connection = self.connection()
        try:
            return exchange(connection, method, path, body, kind)
        finally:
            connection.close()

    def predict(self, body: bytes, kind: str = "image/png") -> tuple[int, dict[str, Any]]:
        """Return status and answer for one image."""
        status, content = self.ask("POST", "/predict", body, kind)
        return status, json.loads(content)

    def connection(self, wait_s: float = 15.0) -> http.client.HTTPConnection:
        """Return a client's connection, not open yet."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=wait_s)

    def raw(self, content: bytes, wait_s: float = 15.0) -> bytes:
        """Send bytes as they are and return what comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as client:
            client.sendall(content)
            return drained(client)

    def resident(self) -> int:
        """Return the bytes of the server in memory, by the kernel's account."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(one for one in status.splitlines() if one.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024


def exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None,
    kind: str = "image/png",
) -> tuple[int, bytes]:
    """Ask over a connection that may stay open."""
    connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
    reply = connection.getresponse()
    return reply.status, reply.read()


def drained(client: socket.socket) -> bytes:
    """Return all that a server sends until it closes, or resets, the connection."""
    found = b""
    try:
        while piece := client.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


def form(image: bytes, boundary: str = "b0") -> tuple[bytes, str]:
    """Return an image as the body and the type of a form."""
    head = b'--b0\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head + image + b"\r\n--b0--\r\n", f"multipart/form-data; boundary={boundary}"


@contextmanager
def serving(
    path: Path, *options: str, program: Sequence[str] = ("-m", "pipeline.runtime")
) -> Iterator[Served]:
    """Start a server, wait until it is ready, and end it."""
    start = time.perf_counter()
    line = [sys.executable, *program, "serve", "--model", str(path)]
    process = subprocess.Popen(
        [*line, "--port", "0", "--quiet", *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        listening = json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline())["event"] == "ready"
        port = int(listening["url"].rpartition(":")[2])
        yield Served(process, port, time.perf_counter() - start)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
