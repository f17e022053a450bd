"""waitress, with what a small board in an open network needs on top of it.

waitress reads requests in one thread and answers them in some. Added here: a request has to be
whole after a while, however busily its bytes trickle; the bodies of all connections together
are bounded; errors are JSON; a body that is too large is read and thrown away, since a client
that is still sending would not see its answer; the loop can be stopped in order.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask
from waitress.utilities import BadRequest, Error, RequestEntityTooLarge

from pipeline.runtime.refusals import Refusal, status_line
from pipeline.runtime.tensors import EngineError

_LARGEST_HEADERS = 16_384  # bytes
_MOST_UNREAD = 64_000_000  # bytes of a body that are thrown away before its client is cut off
_PIECE = 65_536  # bytes read at once
_SENTENCES = {
    400: "the request is malformed.",
    408: "the request was not whole in time.",
    413: "the body is too large.",
    431: "the headers are too large.",
    500: "the server failed; its log says why.",
    501: "this transfer encoding is not known.",
    503: "too many images are being sent. Try again later.",
}


@dataclass(frozen=True)
class Limits:
    """What clients may take.

    Clients that hold all connections keep others waiting until their requests are late, so
    for ``request_s`` at most; who does it again and again has to be kept out by the network.

    Attributes:
        largest: bytes of a body.
        held: bytes of all bodies that are being received or waited for.
        connections: open at a time.
        request_s: seconds from the first byte of a request to its last.
        idle_s: seconds in which a connection may say nothing.
    """

    largest: int
    held: int
    connections: int
    request_s: float
    idle_s: float


class _RequestTimeout(BadRequest):  # type: ignore[misc]  # waitress has no types
    code = 408
    reason = "Request Timeout"


class _Full(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


class _Request(HTTPRequestParser):  # type: ignore[misc]
    path = ""
    expect_continue: bool
    error: Any
    body_bytes_received: int
    content_length: int
    _unread = 0

    def received(self, data: bytes) -> int:
        """Take some bytes and return how many."""
        if self._unread:
            thrown = min(len(data), self._unread)
            self._unread -= thrown
            self.completed = not self._unread
            return thrown
        taken = int(super().received(data))
        if isinstance(self.error, RequestEntityTooLarge):
            if self.expect_continue:
                self.expect_continue = False  # it waits before it sends: it is told at once
            else:
                self.throw_away(self.error)
        return taken

    def throw_away(self, error: Any) -> None:
        """Forget the body, and be complete when the rest of it is read."""
        left = self.content_length - self.body_bytes_received
        self.error = error
        self.close()
        self.body_rcv = None
        self.body_bytes_received = 0
        # Where the end of chunks is unknown the client is cut off.
        self._unread = 0 if self.chunked else min(left, _MOST_UNREAD)
        self.completed = not self._unread


class _JsonError(ErrorTask):  # type: ignore[misc]
    def execute(self) -> None:
        """Write the error; what the client sent is not repeated."""
        status = self.request.error.code
        headers = {"Retry-After": "1"} if status == _Full.code else {}
        refusal = Refusal(status, _SENTENCES.get(status, "the request failed."), headers)
        body = refusal.body()
        self.status = status_line(status)
        self.response_headers.append(("Content-Type", "application/json"))
        self.response_headers.extend(refusal.headers.items())
        self.set_close_on_finish()
        self.content_length = len(body)
        self.channel.server.refused(status, self.request.body_bytes_received, len(body))
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    """One connection."""

    parser_class = _Request
    error_task_class = _JsonError
    request: Any
    begun = 0.0  # when the first byte of the present request came

    def received(self, data: bytes) -> bool:
        """Take some bytes, unless all connections together hold too many."""
        if self.request is None:
            self.begun = time.time()
        taken = bool(super().received(data))
        if self.request is not None and self.server.held() > self.server.limits.held:
            self.request.throw_away(_Full("too much is held"))
            if self.request.completed:
                self.refuse(self.request.error)
        return taken

    def held(self) -> int:
        """Return the bytes of bodies that this connection keeps in memory."""
        kept = [self.request, *self.requests]
        return sum(request.body_bytes_received for request in kept if request is not None)

    def busy(self) -> bool:
        """Tell whether an answer is owed, or is not sent yet."""
        return bool(self.requests or self.total_outbufs_len or self.request is not None)

    def refuse(self, error: Any) -> None:
        """Answer a request that is not whole with an error, and close."""
        with self.requests_lock:
            request = self.request
            if request is None or self.requests:
                return
            request.error = request.error or error
            request.completed = True
            self.requests.append(request)
            self.request = None
        self.server.add_task(self)


class HttpServer(TcpWSGIServer):  # type: ignore[misc]
    """A server on one socket, driven by :meth:`tick`.

    Args:
        application: WSGI.
        listening: a bound socket.
        limits: what clients may take.
        threads: that answer requests.
        refused: is given status, bytes received and bytes sent of each answer that the
            application knows nothing of.
    """

    channel_class = _Channel

    def __init__(
        self,
        application: Callable[..., Any],
        listening: socket.socket,
        limits: Limits,
        threads: int,
        refused: Callable[[int, int, int], None],
    ) -> None:
        self.limits = limits
        self.refused = refused
        logging.getLogger("waitress").setLevel(logging.ERROR)  # a full queue is no news
        super().__init__(
            application,
            {},
            _sock=listening,
            adj=_adjusted(limits, threads),
            sockinfo=(listening.family, listening.type, listening.proto, None),
            bind_socket=False,
        )

    def tick(self, seconds: float) -> None:
        """Wait for at most so long for something to do, and do it."""
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)
        self.maintenance(time.time())

    def maintenance(self, now: float) -> None:
        """Refuse requests that take too long to arrive, and close silent connections."""
        for channel in list(self.active_channels.values()):
            if channel.requests:
                continue
            silent = now - channel.last_activity > self.limits.idle_s
            if channel.request is None:
                channel.will_close = channel.will_close or silent
            elif silent or now - channel.begun > self.limits.request_s:
                channel.refuse(_RequestTimeout("too slow"))

    def held(self) -> int:
        """Return the bytes of all bodies in memory."""
        return sum(channel.held() for channel in list(self.active_channels.values()))

    def stop_listening(self) -> None:
        """Take what has connected already, and no more."""
        known = -1
        while known != len(self.active_channels):
            known = len(self.active_channels)
            self.handle_accept()
        wasyncore.dispatcher.close(self)

    def close_idle(self) -> bool:
        """Close connections that are owed nothing; tell whether none is left."""
        busy = False
        for channel in list(self.active_channels.values()):
            if channel.busy():
                busy = True
            else:
                channel.will_close = True
        return not busy

    def shut_down(self) -> None:
        """Close everything."""
        self.task_dispatcher.shutdown(timeout=0)  # what waits had its time
        wasyncore.close_all(self._map)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address; port 0 is a free one.

    Raises:
        EngineError: there is no such address here, or it is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise EngineError(f"no address {host}:{port}: {error}. Check --host.") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        listening.close()
        raise EngineError(
            f"{host}:{port} cannot be listened on: {error}. Choose another --port or --host."
        ) from error
    return listening


def _adjusted(limits: Limits, threads: int) -> Any:
    return Adjustments(
        threads=threads,
        connection_limit=limits.connections,
        backlog=min(limits.connections, 1024),
        cleanup_interval=3600,  # tick does it
        max_request_header_size=_LARGEST_HEADERS,
        max_request_body_size=limits.largest + 1,  # waitress refuses what reaches it
        inbuf_overflow=limits.largest + _LARGEST_HEADERS,  # so that no body goes to the disk
        recv_bytes=_PIECE,
        ident="",
        log_socket_errors=False,
        expose_tracebacks=False,
        asyncore_use_poll=True,
    )
