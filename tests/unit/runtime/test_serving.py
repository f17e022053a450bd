import io
import json
import re
import sys
import threading
import time

import numpy as np
import pytest
from tiny_classifier import classifier_file, coloured, encoded

from pipeline.runtime import serving
from pipeline.runtime.__main__ import main
from pipeline.runtime.classifier import Answer, Classifier
from pipeline.runtime.metrics import Histogram, Metrics
from pipeline.runtime.pool import Busy, Closed, Late, Pool
from pipeline.runtime.serving import Options
from pipeline.runtime.tensors import EngineError
from pipeline.runtime.web import Application

RED = encoded(coloured("red"))
GOOD = {"REQUEST_METHOD": "POST", "PATH_INFO": "/predict", "CONTENT_TYPE": "image/png"}


class Slow:
    """A classifier that answers when it is allowed to."""

    def __init__(self):
        self.go, self.begun, self.done = threading.Event(), threading.Semaphore(0), []

    def classify(self, content):
        self.begun.release()
        assert self.go.wait(10)
        self.done.append(content)
        return Answer(np.float32([1, 0]), ["a", "b"], 0.002, 0.001)


class Site:
    """An application, what it logs, and a client that speaks WSGI to it."""

    def __init__(self, load, *, waiting=2, timeout_s=5.0, largest=3000, start=True):
        self.pool, self.metrics, self.lines = Pool(load, 1, waiting), Metrics(), []
        self.app = Application(
            self.pool, self.metrics, self.lines.append, timeout_s=timeout_s, largest=largest
        )
        if start:
            self.pool.start()
            until(lambda: self.pool.ready or self.pool.problem)

    def ask(self, body=b"", **environ):
        said = {}

        def start_response(status, headers):
            said.update(status=int(status.split()[0]), headers=dict(headers))

        given = {**GOOD, "CONTENT_LENGTH": str(len(body)), **environ}
        content = b"".join(self.app({**given, "wsgi.input": io.BytesIO(body)}, start_response))
        if given["REQUEST_METHOD"] != "HEAD":
            assert said["headers"]["Content-Length"] == str(len(content))
        return said["status"], said["headers"], content

    def get(self, path):
        return self.ask(REQUEST_METHOD="GET", PATH_INFO=path)

    def refused(self, *body, **environ):
        status, headers, content = self.ask(*body, **environ)
        error = json.loads(content)["error"]
        assert error["status"] == status
        return status, error["message"], headers


def until(true, seconds=5):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture
def site(tmp_path):
    path = classifier_file(tmp_path / "a.onnx")
    made = Site(lambda: Classifier(path))
    yield made
    made.pool.stop(1)


@pytest.fixture
def slow():
    classifier = Slow()
    yield classifier
    classifier.go.set()


def form(*parts, boundary="b0"):
    body = b"".join(
        b"--b0\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"
        for head, content in parts
    )
    kind = f"multipart/form-data; boundary={boundary}" if boundary else "multipart/form-data"
    return body + b"--b0--\r\n", {"CONTENT_TYPE": kind}


IMAGE = (b'name="image"; filename="../../etc/a.png"', RED)
FIELD = (b'name="note"', b"hello")


def test_an_image_is_classified(site):
    status, headers, content = site.ask(RED)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(content)["class"] == "red"


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream"])
def test_the_bytes_say_what_an_image_is(site, kind):
    assert site.ask(RED, CONTENT_TYPE=kind)[0] == 200


def test_an_image_may_come_in_a_form(site):
    body, kind = form(FIELD, IMAGE)
    assert json.loads(site.ask(body, **kind)[2])["class"] == "red"


@pytest.mark.parametrize(
    ("parts", "boundary", "status", "told"),
    [
        ([IMAGE], "", 400, "the form has no boundary."),
        ([IMAGE], "other", 400, "the form cannot be read"),
        ([FIELD], "b0", 400, "the form has 0 files; send one image."),
        ([IMAGE, IMAGE], "b0", 400, "the form has 2 files; send one image."),
        ([FIELD] * 20, "b0", 400, "the form cannot be read"),
        ([(IMAGE[0], b"")], "b0", 422, "the image is empty."),
        ([(IMAGE[0], b"GIF89a")], "b0", 415, "the image is neither a JPEG nor a PNG"),
    ],
)
def test_forms_that_are_refused(site, parts, boundary, status, told):
    body, kind = form(*parts, boundary=boundary)
    got, message, _ = site.refused(body[:5000], **kind)
    assert (got, told in message) == (status, True), message


@pytest.mark.parametrize(
    ("body", "environ", "status", "told"),
    [
        (RED, {"CONTENT_TYPE": "text/plain"}, 415, "send a JPEG or PNG as image/jpeg"),
        (RED, {"CONTENT_TYPE": ""}, 415, "send a JPEG or PNG as image/jpeg"),
        (b"GIF89a", {}, 415, "the image is neither a JPEG nor a PNG"),
        (b"", {}, 422, "the image is empty."),
        (RED[:50], {}, 422, "the image cannot be decoded"),
        (RED + bytes(3000), {}, 413, "the body has more than 3,000 bytes."),
        (RED, {"PATH_INFO": "/"}, 404, "no such route. There are /predict, /healthz"),
        (RED, {"PATH_INFO": "/../a.onnx"}, 404, "no such route."),
        (RED, {"REQUEST_METHOD": "GET"}, 405, "/predict takes POST."),
        (b"", {"PATH_INFO": "/healthz"}, 405, "/healthz takes GET."),
    ],
)
def test_refusals_are_json_with_a_sentence(site, body, environ, status, told):
    got, message, headers = site.refused(body, **environ)
    assert (got, told in message) == (status, True), message
    assert ("Allow" in headers) == (status == 405)
    assert site.ask(RED)[0] == 200


def test_a_full_queue_is_refused_and_what_waits_is_answered(slow):
    site = Site(lambda: slow, waiting=2)
    found = []
    threads = [threading.Thread(target=lambda: found.append(site.ask(RED)[0])) for _ in "123"]
    for thread in threads[:1]:
        thread.start()
    assert slow.begun.acquire(timeout=5)
    for thread in threads[1:]:
        thread.start()
    until(lambda: site.pool.queued == 2)
    status, message, headers = site.refused(RED)
    assert (status, message) == (503, "too many images wait. Try again later.")
    assert headers["Retry-After"] == "1"
    slow.go.set()
    for thread in threads:
        thread.join(5)
    assert found == [200] * 3
    site.pool.stop(1)


def test_an_answer_that_comes_late_is_refused_and_a_dropped_one_is_not_made(slow):
    site = Site(lambda: slow, timeout_s=0.05)
    assert site.refused(RED)[:2] == (503, "no answer within 0.05 s. Try again later.")
    assert site.refused(RED)[0] == 503
    slow.go.set()
    until(lambda: slow.done)
    site.pool.stop(1)
    assert len(slow.done) == 1


def test_it_is_not_ready_before_and_not_after(slow):
    site = Site(lambda: slow, start=False)
    for ask in (
        lambda: site.get("/readyz"),
        lambda: site.ask(RED),
        lambda: site.get("/metadata"),
    ):
        status, _, content = ask()
        assert (status, b"the server is still loading" in content) == (503, True)
    assert site.get("/healthz")[0] == 200
    site.pool.start()
    until(lambda: site.pool.ready)
    assert site.get("/readyz")[0] == 200
    site.pool.close()
    assert site.refused(RED)[:2] == (503, "the server is stopping. Try again later.")
    assert (site.get("/readyz")[0], site.get("/healthz")[0]) == (503, 200)
    site.pool.stop(1)


def test_head_is_get_without_a_body(site):
    status, headers, content = site.ask(REQUEST_METHOD="HEAD", PATH_INFO="/healthz")
    assert (status, content) == (200, b"")
    assert headers["Content-Length"] == str(len(site.get("/healthz")[2]))
    status, _, content = site.ask(REQUEST_METHOD="HEAD")
    assert (status, content) == (405, b"")


def test_a_bug_is_a_500_that_tells_nothing_and_the_next_request_works(
    site, monkeypatch, capfd
):
    with monkeypatch.context() as patch:
        patch.setattr(site.pool, "classify", lambda *_: 1 / 0)
        status, message, _ = site.refused(RED)
    assert (status, message) == (500, "the server failed; its log says why.")
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert site.ask(RED)[0] == 200


def test_an_engine_that_fails_is_a_500_and_told_in_the_log(site, monkeypatch, capsys):
    def fail(*_):
        raise EngineError("/srv/a.onnx: broken.")

    monkeypatch.setattr(site.pool.classifier.engine, "run", fail)
    assert site.refused(RED)[:2] == (500, "the engine failed; the server's log says why.")
    assert capsys.readouterr().err == "/srv/a.onnx: broken.\n"


def test_only_code_duration_and_bytes_are_logged(site):
    site.ask(RED)
    site.ask(RED, PATH_INFO="/secret", QUERY_STRING="secret")
    site.get("/healthz")
    assert [set(line) for line in site.lines] == [{"code", "milliseconds", "in", "out"}] * 2
    assert [line["code"] for line in site.lines] == [200, 404]
    assert site.lines[0]["in"] == len(RED)


LINE = re.compile(r'[a-z_]+(\{([a-z0-9_]+="[^"\n]*",?)*\})? -?[0-9.e+]+')


def test_metrics_are_what_prometheus_reads(site):
    for _ in range(3):
        site.ask(RED)
    site.ask(RED, PATH_INFO="/any\nthing")
    _, headers, content = site.get("/metrics")
    lines = content.decode().splitlines()
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert content.endswith(b"\n")
    assert all(line.startswith("# ") or LINE.fullmatch(line) for line in lines)
    assert 'pare_requests_total{route="/predict",code="200"} 3' in lines
    assert 'pare_requests_total{route="other",code="404"} 1' in lines
    assert "pare_predict_seconds_count 3" in lines
    assert "pare_inference_seconds_count 3" in lines
    assert {"pare_queue_depth 0", "pare_ready 1"} <= set(lines)
    assert any(line.startswith('pare_model_info{file="a.onnx",sha256="') for line in lines)
    (resident,) = [one for one in lines if one.startswith("process_resident_memory_bytes")]
    assert float(resident.split()[1]) > 1e6


def test_a_bucket_counts_what_is_below_it():
    histogram = Histogram()
    for seconds in (0.001, 0.002, 7, 70):
        histogram.add(seconds)
    lines = histogram.lines("x")
    assert lines[0] == 'x_bucket{le="0.001"} 1'
    assert lines[1] == 'x_bucket{le="0.0025"} 2'
    assert lines[-4:] == [
        'x_bucket{le="10.0"} 3', 'x_bucket{le="+Inf"} 4', "x_sum 77.003000", "x_count 4"
    ]  # fmt: skip


def test_the_model_card_is_served(site):
    card = json.loads(site.get("/metadata")[2])
    assert (card["file"], card["runtime"]) == ("a.onnx", "onnxruntime")


def test_a_pool_says_why_it_takes_nothing(slow):
    pool = Pool(lambda: slow, 1, 1)
    with pytest.raises(Closed):
        pool.classify(RED, 1)
    pool.start()
    until(lambda: pool.ready)
    with pytest.raises(Late):
        pool.classify(RED, 0.01)
    with pytest.raises(Late):
        pool.classify(RED, 0.01)
    with pytest.raises(Busy):
        pool.classify(RED, 0.01)
    assert pool.stop(0.01) is False  # a worker that hangs does not hold up the end
    slow.go.set()
    until(lambda: pool.stop(1))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "workers = 0: at least 1 is needed."),
        ({"waiting": 0}, "waiting = 0: at least 1"),
        ({"timeout_s": float("nan")}, "timeout_s = nan"),
        ({"connections": 1}, "connections = 1: at least 8"),
        ({"largest": 9_000_000}, "at most 8000000 bytes are decoded"),
        ({"host": "256.0.0.1"}, "no address 256.0.0.1:8080"),
        ({"host": "192.0.2.1"}, "192.0.2.1:8080 cannot be listened on"),
        ({"port": 99999}, "port = 99999: at most 65535"),
    ],
)
def test_what_cannot_be_served_is_told(tmp_path, options, told):
    path = classifier_file(tmp_path / "a.onnx")
    with pytest.raises(EngineError, match=re.escape(told)):
        serving.run(path, Options(**options))


def test_a_file_that_cannot_be_loaded_ends_the_server(tmp_path, capsys):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no model")
    assert main(["serve", "--model", str(path), "--port", "0"]) == 2
    assert "onnxruntime cannot load it" in capsys.readouterr().err


def test_the_command_line_has_the_same_defaults(monkeypatch):
    asked = []
    monkeypatch.setattr(serving, "run", lambda path, options: asked.append(options) or 0)
    assert main(["serve", "--model", "a.onnx"]) == 0
    line = ["serve", "--model", "a.onnx", "--timeout", "3", "--waiting", "5", "--quiet"]
    assert main(line) == 0
    assert asked == [Options(), Options(timeout_s=3, waiting=5, quiet=True)]


def test_a_line_of_the_log_is_json_and_nobody_has_to_read_it(capsys, monkeypatch):
    serving._log({"code": 200})
    assert json.loads(capsys.readouterr().err)["code"] == 200
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert serving._log({"code": 200}) is None


@pytest.mark.parametrize("package", ["waitress", "multipart"])
def test_a_missing_library_is_named(tmp_path, monkeypatch, package):
    path = classifier_file(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "pipeline.runtime.http_server", raising=False)
    with pytest.raises(EngineError, match=f"serve needs {package}, which is not installed"):
        serving.run(path, Options(port=0))
