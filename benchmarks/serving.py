"""Load, memory, hostile clients and start of ``pare-runtime serve``, for files of a run.

    pare run
    python benchmarks/serving.py runs/quickstart/5-export/model.int8.tflite

writes ``benchmarks/results/serving.md``. Everything goes through HTTP to a process of its own;
clients and server share this machine, so that latencies are an upper bound of its own share.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import platform
import random
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.runtime.classifier import LARGEST, Classifier
from pipeline.runtime.conditions import conditions
from pipeline.runtime.images import ImageError

RESULTS = Path(__file__).parent / "results" / "serving.md"
REQUESTS, CLIENTS = 1000, 8
PREDICTIONS, WARM = 10_000, 1000
STARTS = 5
SLOW_S = 3.0  # request timeout while hostile clients are let loose


class Server:
    """``pare-runtime serve`` on a free port."""

    def __init__(self, process: subprocess.Popen[str], port: int, ready_s: float) -> None:
        self.process, self.port, self.ready_s = process, port, ready_s

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def predict(self, body: bytes, kind: str = "image/png") -> tuple[int, dict[str, Any]]:
        connection = self.connection()
        try:
            return ask(connection, body, kind)
        finally:
            connection.close()

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(one for one in status.splitlines() if one.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6


def ask(
    connection: http.client.HTTPConnection, body: bytes, kind: str = "image/png"
) -> tuple[int, dict[str, Any]]:
    connection.request("POST", "/predict", body, {"Content-Type": kind})
    reply = connection.getresponse()
    return reply.status, json.loads(reply.read())


@contextmanager
def serving(path: Path, *options: str) -> Iterator[Server]:
    begin = time.perf_counter()
    line = [sys.executable, "-m", "pipeline.runtime", "serve", "--quiet", "--port", "0"]
    line += ["--model", str(path), *options]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        while not ready(port):
            time.sleep(0.005)
        yield Server(process, port, time.perf_counter() - begin)
        process.terminate()
        assert process.wait(20) == 0, "it did not stop in order"
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def encoded(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind, **options)
    return content.getvalue()


def pictures() -> tuple[bytes, bytes]:
    """Return a JPEG as a camera makes it, and a small PNG."""
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 255, 640), np.linspace(0, 255, 480))
    smooth = np.stack([across, down, (across + down) / 2], axis=2)
    noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
    return encoded(noisy, "JPEG", quality=90), encoded(noisy[:64, :64], "PNG")


def load(server: Server, body: bytes) -> dict[str, Any]:
    """Send requests by some clients, each over a connection that stays open."""
    taken: list[float] = []
    lost: list[Any] = []
    wanted = server.predict(body)[1]["class"]

    def client() -> None:
        connection = server.connection()
        for _ in range(REQUESTS // CLIENTS):
            begin = time.perf_counter()
            try:
                status, answer = ask(connection, body)
                if status != 200 or answer["class"] != wanted:
                    lost.append(status)
            except OSError as error:
                lost.append(error)
            taken.append((time.perf_counter() - begin) * 1e3)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    p50, p90, p99 = np.quantile(taken, [0.5, 0.9, 0.99])
    return {
        "n": len(taken), "lost": len(lost), "p50": p50, "p90": p90, "p99": p99,
        "rate": len(taken) / seconds,
    }  # fmt: skip


def memory(server: Server, bodies: tuple[bytes, ...]) -> list[tuple[int, float]]:
    """Return the resident megabytes after each thousand predictions."""
    connection = server.connection()
    found = []
    for number in range(1, WARM + PREDICTIONS + 1):
        status, _ = ask(connection, bodies[number % len(bodies)])
        assert status == 200
        if number % 1000 == 0:
            found.append((number, server.resident_mb()))
    connection.close()
    return found


def broken(body: bytes, classifier: Classifier, rng: random.Random, *, cut: bool) -> bytes:
    """Return an image damaged until no decoder makes anything of it."""
    while True:
        changed = bytearray(body[: rng.randrange(4, len(body))] if cut else body)
        for _ in range(0 if cut else 30):
            changed[rng.randrange(8, len(changed))] = rng.randrange(256)
        try:
            classifier.decode(bytes(changed))
        except ImageError:
            return bytes(changed)


def huge(number: int, jpeg: bytes) -> bytes:
    """Return an image of a few bytes that claims to have up to four billion pixels."""
    width, height = [(5000, 5000), (20_000, 20_000), (65_000, 65_000)][number % 3]
    if number % 2:
        place = jpeg.index(b"\xff\xc0") + 5
        return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checked

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    bomb = zlib.compress(bytes(5_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", bomb)


def hostile(
    classifier: Classifier, jpeg: bytes, png: bytes
) -> dict[str, list[tuple[bytes, str]]]:
    """Return 190 bodies with their types by what is wrong with them."""
    rng = random.Random(0)  # noqa: S311 - damage that can be repeated
    small = encoded(np.asarray(Image.open(io.BytesIO(jpeg)).resize((96, 64))), "JPEG")
    other = [b"GIF89a", b"PK\x03\x04", b"\x7fELF", b"%PDF-1.7", b"RIFF\0\0\0\0WEBP"]
    start = small.index(b"\xff\xda")
    progressive = encoded(np.asarray(Image.open(io.BytesIO(small))), "JPEG", progressive=True)
    scans = progressive + progressive[progressive.index(b"\xff\xda") :] * 50
    multipart = "multipart/form-data; boundary=b0"
    return {
        "fuzzed JPEG": [
            (broken(small[: start + 400], classifier, rng, cut=False), "image/jpeg")
            for _ in range(40)
        ],
        "fuzzed PNG": [
            (broken(png, classifier, rng, cut=False), "image/png") for _ in range(40)
        ],
        "truncated": [
            (broken(body, classifier, rng, cut=True), "image/jpeg")
            for body in [small, png] * 15
        ],
        "huge dimensions": [(huge(n, small), "image/png") for n in range(20)],
        "500 scans": [(scans, "image/jpeg")] * 10,
        "empty": [(b"", "image/jpeg")] * 10,
        "wrong type": [(png, "text/html"), (png, "application/json")] * 5,
        "other formats": [(one + bytes(500), "image/png") for one in other * 2],
        "oversized": [(jpeg + bytes(LARGEST * (1 + n % 2)), "image/jpeg") for n in range(10)],
        "broken form": [(b"--b0\r\n" + rng.randbytes(500), multipart) for _ in range(10)],
    }


def slow(server: Server, count: int, good: Callable[[], bool]) -> tuple[Counter[int], int]:
    """Let connections send a byte every 0.2 s for ever; return what they got."""
    found: Counter[int] = Counter()
    failed = 0
    clients = [socket.create_connection(("127.0.0.1", server.port), 15) for _ in range(count)]
    for client in clients:
        client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 5000\r\n")
    end = time.monotonic() + 2 * SLOW_S
    while clients and time.monotonic() < end:
        for client in list(clients):
            client.settimeout(0.001)
            reply = b""
            with suppress(TimeoutError):
                reply = client.recv(4096)
            if reply:
                found[int(reply.split()[1])] += 1
                clients.remove(client)
                client.close()
            else:
                with suppress(OSError):
                    client.sendall(b"X")
        failed += not good()
        time.sleep(0.2)
    found[0] += len(clients)
    return +found, failed


def attack(
    server: Server, classifier: Classifier, jpeg: bytes, png: bytes
) -> list[tuple[str, int, Counter[int], int]]:
    """Return kind, number, statuses, and good requests that failed after one."""
    wanted = server.predict(png)[1]["class"]

    def good() -> bool:
        status, answer = server.predict(png)
        return status == 200 and answer["class"] == wanted

    rows = []
    for kind, bodies in hostile(classifier, jpeg, png).items():
        statuses: Counter[int] = Counter()
        failed = 0
        for body, type_ in bodies:
            statuses[server.predict(body, type_)[0]] += 1
            failed += not good()
        rows.append((kind, len(bodies), statuses, failed))
    rows.append(("slow-loris, at once", 10, *slow(server, 10, good)))
    rows.append(("50 more of them", 50, *slow(server, 50, good)))
    return rows


def examine(path: Path) -> list[str]:
    """Return the lines of one file's section."""
    jpeg, png = pictures()
    starts = []
    for _ in range(STARTS):
        with serving(path) as server:
            starts.append(server.ready_s)
    with serving(path) as server:
        small, camera = load(server, png), load(server, jpeg)
    with serving(path) as server:
        sizes = memory(server, (jpeg, png))
    limits = ("--request-timeout", str(SLOW_S))
    with serving(path, *limits) as server:
        attacked = attack(server, Classifier(path, most_pixels=16_000_000), jpeg, png)
        after = server.resident_mb()
    lines = [f"## {path.name}", ""]
    lines += [
        (
            f"Start of the process to ready: median {statistics.median(starts):.2f} s, "
            f"slowest {max(starts):.2f} s of {STARTS}."
        ),
        "",
        f"{REQUESTS} requests by {CLIENTS} clients at once, one worker, one thread:",
        "",
        "| image | lost | p50 ms | p90 ms | p99 ms | a second |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in (("64 x 64 PNG", small), ("640 x 480 JPEG", camera)):
        lines.append(
            f"| {name} | {row['lost']} of {row['n']} | {row['p50']:.1f} | {row['p90']:.1f} | "
            f"{row['p99']:.1f} | {row['rate']:.0f} |"
        )
    first, last = sizes[WARM // 1000 - 1][1], sizes[-1][1]
    lines += [
        "",
        (
            f"Resident memory after {WARM:,} predictions {first:.1f} MB, {PREDICTIONS:,} "
            f"later {last:.1f} MB ({last - first:+.1f}); at each thousand: "
            f"{', '.join(f'{mb:.1f}' for _, mb in sizes)}."
        ),
        "",
        "| hostile | bodies | answers | good requests that failed after one |",
        "|---|---:|---|---:|",
    ]
    for kind, count, statuses, failed in attacked:
        told = ", ".join(f"{status}: {n}" for status, n in sorted(statuses.items()))
        lines.append(f"| {kind} | {count} | {told} | {failed} |")
    wrong = sum(n for _, _, statuses, _ in attacked for status, n in statuses.items()
                if not (400 <= status < 500 or status == 503))  # fmt: skip
    total = sum(count for _, count, _, _ in attacked)
    lines += ["", f"{total - wrong} of {total} got 4xx or 503; {after:.1f} MB afterwards.", ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    found = conditions()
    lines = [
        "# pare-runtime serve under load and under attack",
        "",
        (
            "Made by `python benchmarks/serving.py` with the int8 files of the quickstart. "
            f"{found['cpu']}, {found['cores']} cores shared by server and clients (and by "
            f"other work: load {found['load_average'][0]:.1f} at the start), Python "
            f"{platform.python_version()}. Fuzzed and truncated images are damaged until "
            "Pillow refuses them: where it makes something of one, the answer is a class."
        ),
        "",
    ]
    for path in files:
        lines += examine(path)
    RESULTS.write_text("\n".join(lines), encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
