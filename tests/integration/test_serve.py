"""A server in a process of its own: load, hostile clients, slow clients, the end."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from serve_process import Served, drained, exchange, form, serving
from tiny_classifier import COLOURS, classifier_file, coloured, encoded
from torch import Tensor, nn

from pipeline.core.plugins import EXPORTERS
from pipeline.core.recipe import DataChoice
from pipeline.core.signature import Signature
from pipeline.data import load
from pipeline.quantizers.float32 import Float32
from pipeline.runtime import golden
from pipeline.runtime.__main__ import main

FLAT = 2_000_000  # bytes over 800 images
RED = encoded(coloured("red"))
JPEG = encoded(coloured("green", (64, 48)), "JPEG", quality=90)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return classifier_file(tmp_path_factory.mktemp("model") / "a.tflite")


@pytest.fixture(scope="module")
def server(model):
    with serving(model, "--request-timeout", "2", "--largest", "200000") as made:
        yield made


def good(server):
    status, answer = server.predict(RED)
    return status == 200 and answer["class"] == "red"


def test_eight_clients_lose_nothing(server):
    """Each over one connection that stays open, and the answers are those of its images."""
    wrong = []

    def client(number):
        colour = COLOURS[number % 3]
        body = encoded(coloured(colour))
        connection = server.connection()
        for _ in range(13):
            status, content = exchange(connection, "POST", "/predict", body)
            if status != 200 or json.loads(content)["class"] != colour:
                wrong.append((status, content))
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    text = server.ask("GET", "/metrics")[1].decode()
    count = next(one for one in text.splitlines() if one.startswith("pare_predict_seconds_co"))
    assert int(count.split()[1]) >= 8 * 13


def test_it_is_ready_in_two_seconds(server):
    assert server.ready_s < 2
    assert server.ask("GET", "/readyz")[0] == server.ask("GET", "/healthz")[0] == 200


LEAK = """
import pipeline.runtime.classifier as room
from pipeline.runtime.__main__ import run
kept, whole = [], room.Classifier.classify
room.Classifier.classify = lambda *given: kept.append(given[1][:1] * 4000) or whole(*given)
run()
"""


@pytest.mark.parametrize(
    ("program", "flat"), [(("-m", "pipeline.runtime"), True), (("-c", LEAK), False)]
)
def test_memory_is_flat(model, program, flat):
    """The twin keeps 4 kB of each image."""
    with serving(model, program=program) as server:
        connection = server.connection()
        for body in [RED, JPEG] * 100:
            assert exchange(connection, "POST", "/predict", body)[0] == 200
        before = server.resident()
        for body in [RED, JPEG] * 400:
            exchange(connection, "POST", "/predict", body)
        connection.close()
        assert (server.resident() - before < FLAT) == flat


def test_hostile_bodies_are_refused_and_the_next_is_served(server):
    rng = random.Random(0)
    for number in range(40):
        body = bytearray(rng.choice([RED, JPEG]))
        for _ in range(20):
            body[rng.randrange(4, len(body))] = rng.randrange(256)
        cut = bytes(body[: rng.randrange(len(body))])
        status, answer = server.predict(*form(cut) if number % 2 else (cut,))
        # Where a decoder makes something of it, that is an answer.
        assert status in (200, 415, 422), answer
        assert status == 200 or answer["error"]["message"]
        assert good(server)


def test_a_body_that_is_too_large_is_refused_to_a_client_that_sends_it_all(server):
    status, answer = server.predict(RED + bytes(5_000_000))
    assert (status, answer["error"]["message"]) == (413, "the body is too large.")
    assert good(server)
    head = (
        b"POST /predict HTTP/1.1\r\nContent-Length: 900000000\r\nExpect: 100-continue\r\n\r\n"
    )
    assert server.raw(head).startswith(b"HTTP/1.1 413 ")  # before a byte of it is sent
    assert good(server)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 4, 5\r\n\r\n", 400),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /../../etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n", 404),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 415),
    ],
)
def test_requests_that_are_none_get_json(server, content, status):
    head, _, body = server.raw(content).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["error"]["status"] == status
    assert b"passwd" not in body
    assert good(server)


def test_slow_clients_hold_up_nobody_and_are_sent_away(server):
    """50 connections that trickle; each is told 408 when its time is over, good ones work."""
    clients = [socket.create_connection(("127.0.0.1", server.port), 15) for _ in range(50)]
    for number, client in enumerate(clients):
        client.sendall(
            b"POST /predict HTTP/1.1\r\nContent-Length: 5000\r\n\r\n"[
                : 60 * (number % 2) or 20
            ]
        )
    begin = time.monotonic()
    while time.monotonic() - begin < 1.5:  # as if they were only slow
        for client in clients:
            client.sendall(b"x")
        assert good(server)
    for client in clients:
        assert drained(client).startswith((b"HTTP/1.0 408", b"HTTP/1.1 408"))
        client.close()
    assert 1.5 < time.monotonic() - begin < 6
    assert good(server)


def test_silent_connections_are_closed(server):
    with socket.create_connection(("127.0.0.1", server.port), 15) as client:
        assert drained(client) == b""
    assert good(server)


def test_all_bodies_together_are_bounded(model):
    with serving(model, "--largest", "100000", "--request-timeout", "20") as server:
        head = b"POST /predict HTTP/1.1\r\nContent-Length: 100000\r\n\r\n"
        clients = [socket.create_connection(("127.0.0.1", server.port), 15) for _ in range(9)]
        for client in clients:
            client.sendall(head + bytes(99_000))
        time.sleep(0.3)
        found = []
        for client in clients:  # each sends the rest, and only then is it told
            client.sendall(bytes(1000))
            found.append(int(client.recv(100).split()[1]))
            client.close()
        assert sorted(found) == [415] * 8 + [503]
        assert good(server)


def test_a_terminated_server_ends_in_order(model):
    """Each answer is whole: 200, or 503 once it stops; then nobody is let in; exit code 0."""
    with serving(model, "--grace", "5") as server:
        answers, ended = [], []

        def client():
            while True:
                try:
                    connection = server.connection()
                    connection.connect()
                except OSError:
                    ended.append("refused")
                    return
                try:
                    answers.append(exchange(connection, "POST", "/predict", JPEG))
                except OSError:  # closed before it was read
                    ended.append("closed")
                    return
                finally:
                    connection.close()

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert server.process.wait(10) == 0
        assert time.monotonic() - begin < 3
        for thread in threads:
            thread.join(10)
        assert len(ended) == 4
        assert len(answers) > 10
        assert {status for status, _ in answers} <= {200, 503}
        assert all(json.loads(content) for _, content in answers)


SLOW = """
import time
import pipeline.runtime.classifier as room
from pipeline.runtime.__main__ import run
whole = room.Classifier.classify
room.Classifier.classify = lambda *given: time.sleep({seconds}) or whole(*given)
run()
"""


@pytest.mark.parametrize(
    ("grace", "seconds", "wanted"), [("10", 0.4, [200] * 3), ("0.1", 5, ["cut off"] * 3)]
)
def test_what_waits_is_finished_within_the_grace(model, grace, seconds, wanted):
    slow = SLOW.format(seconds=seconds)
    with serving(model, "--grace", grace, program=("-c", slow)) as server:
        found = []

        def client():
            try:
                found.append(server.predict(RED)[0])
            except OSError:
                found.append("cut off")

        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        while b"pare_queue_depth 2" not in server.ask("GET", "/metrics")[1]:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        for thread in threads:
            thread.join(10)
        assert found == wanted


def test_a_server_that_is_loading_says_so_and_can_be_ended(model):
    code = (
        "import time, pipeline.runtime.classifier as room; "
        "room.Classifier.__init__ = lambda *given: time.sleep(30); "
        "from pipeline.runtime.__main__ import run; run()"
    )
    line = [sys.executable, "-c", code, "serve", "--model", str(model), "--port", "0"]
    process = subprocess.Popen([*line, "--grace", "0.1"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
        server = Served(process, port, 0)
        assert (server.ask("GET", "/healthz")[0], server.ask("GET", "/readyz")[0]) == (
            200,
            503,
        )
        assert server.predict(RED)[1]["error"]["message"].startswith(
            "the server is still loading"
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_nothing_is_written_to_the_disk(model):
    """Bodies stay in memory, so that a container may be read-only."""
    code = (
        "import tempfile; tempfile.TemporaryFile = tempfile.NamedTemporaryFile = None; "
        "from pipeline.runtime.__main__ import run; run()"
    )
    with serving(model, program=("-c", code)) as server:
        large = JPEG + bytes(7_000_000)
        assert server.predict(large)[0] == server.predict(*form(large))[0] == 200
        head = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
        kind = b"Content-Type: image/png\r\n\r\n"
        pieces = b"%x\r\n%s\r\n0\r\n\r\n" % (len(large), large)
        assert server.raw(head + kind + pieces).startswith(b"HTTP/1.1 200")


def test_a_health_check_asks_the_server(server, model, capsys, tmp_path):
    vectors = tmp_path / "golden.json"
    images = [coloured(colour) for colour in COLOURS]
    vectors.write_text(json.dumps(golden.make(model, images)))
    line = ["selftest", str(model), "--golden", str(vectors)]
    line += ["--url", f"http://127.0.0.1:{server.port}"]
    assert main(line) == 0
    assert json.loads(capsys.readouterr().out)["class"] == "red"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_the_same_jpeg_gives_the_same_answer_as_in_training(tmp_path):
    """From the file on the disk through HTTP, against PyTorch on what training reads of it."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("bird", "fish"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(4):
                noise = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                image = Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC)
                image.save(tmp_path / split / label / f"{number}.jpg", quality=90)
    images = load(DataChoice(name=f"image-folder:{tmp_path}", size=24))
    signature = Signature(
        channels=3, height=24, width=24, mean=images.mean, std=images.std,
        classes=["bird", "fish"], preprocessing="outside", producer="pare", recipe_hash="0",
    )  # fmt: skip
    network = Net().eval()
    calibration = images.normalise(images.train.images).numpy()
    exporter = EXPORTERS.load("onnx")[0]()
    plan = Float32.plan("onnx")
    made = exporter.write(network, [plan], signature, calibration, tmp_path / "out", 240)
    with torch.no_grad():
        odds = network(images.normalise(images.test.images)).softmax(1).numpy()
    files = sorted((tmp_path / "test").rglob("*.jpg"))
    with serving(made["float32"]) as server:
        answers = [server.predict(path.read_bytes(), "image/jpeg") for path in files]
        mirrored = [
            server.predict(encoded(np.asarray(Image.open(path))[:, :80])) for path in files
        ]
    found = [in_order(answer) for _, answer in answers]
    assert np.abs(np.array(found) - odds).max() < 2e-6
    # The twin: ten of ninety columns less are seen.
    assert np.abs(np.array([in_order(answer) for _, answer in mirrored]) - odds).max() > 2e-6


def in_order(answer):
    return [one["probability"] for one in sorted(answer["top"], key=lambda one: one["index"])]
