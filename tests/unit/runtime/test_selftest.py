import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from tiny_classifier import COLOURS, classifier_file, coloured

from pipeline.runtime import golden, selftest
from pipeline.runtime.__main__ import main
from pipeline.runtime.tensors import EngineError


@pytest.fixture
def path(tmp_path):
    made = classifier_file(tmp_path / "a.onnx")
    vectors = golden.make(made, [coloured(colour) for colour in COLOURS])
    golden.beside(made).write_text(json.dumps(vectors))
    return made


@pytest.fixture
def server():
    """A server that gives the replies it is told to, whatever it is asked."""
    replies = {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = replies[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}", replies
        made.shutdown()
        thread.join()


def told(capsys):
    return json.loads(capsys.readouterr().out)


def test_a_good_file_passes(path, capsys):
    assert main(["selftest", str(path)]) == 0
    line = told(capsys)
    assert (line["passed"], line["vectors"], line["file"]) == (True, 3, "a.onnx")
    assert line["runtime"] == "onnxruntime"


def test_the_file_may_be_named_by_the_environment(path, capsys, monkeypatch):
    monkeypatch.setenv("PARE_MODEL", str(path))
    assert main(["selftest"]) == 0
    assert told(capsys)["passed"] is True


def test_a_changed_file_fails(path, capsys):
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["selftest", str(path)]) == 1
    assert "the file's SHA-256 is" in told(capsys)["why"]


@pytest.mark.parametrize("missing", ["model", "vectors"])
def test_what_is_missing_fails_with_one(path, capsys, missing):
    (path if missing == "model" else golden.beside(path)).unlink()
    assert main(["selftest", str(path)]) == 1
    assert told(capsys)["why"].startswith("no file at" if missing == "model" else "no golden")


@pytest.mark.parametrize(
    ("ready", "answer", "passed", "why"),
    [
        ((200, b"{}"), (200, b'{"class": "red", "index": 0}'), True, ""),
        ((200, b"{}"), (200, b'{"class": "blue", "index": 2}'), False, "is 'blue', not 'red'"),
        ((503, b'{"error": {"message": "loading."}}'), None, False, "readyz: 503 (loading)"),
        ((200, b"{}"), (500, b"{}"), False, "/predict: 500."),
        ((200, b"ready"), None, False, "no answer (JSONDecodeError"),
        ((200, b"{}"), (200, b"[]"), False, "is None, not 'red'"),
    ],
)
def test_a_server_is_asked(path, server, capsys, ready, answer, passed, why):
    url, replies = server
    replies.update({"/readyz": ready, "/predict": answer})
    assert main(["selftest", str(path), "--url", url]) == (0 if passed else 1)
    line = told(capsys)
    assert line["passed"] is passed
    assert why in line.get("why", "")


def test_a_server_that_is_not_there_fails(path, capsys):
    assert main(["selftest", str(path), "--url", "http://127.0.0.1:9", "--wait", "1"]) == 1
    assert "no answer (ConnectionRefusedError" in told(capsys)["why"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://127.0.0.1", "give the server as http://host:port"),
        ("file:///etc/passwd", "give the server as http://host:port"),
        ("http://127.0.0.1:no", "is no URL"),
    ],
)
def test_what_is_no_server_is_refused(path, url, why):
    with pytest.raises(EngineError, match=why):
        selftest.at(url, golden.read(golden.beside(path)))
