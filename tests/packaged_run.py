"""A finished run of a tiny classifier, and an engine that only plays a part."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tiny_classifier import COLOURS, SIZE, classifier_file, coloured, encoded

from pipeline.core.artifact import Artifact, Provenance, sha256
from pipeline.core.recipe import Recipe
from pipeline.core.rundir import write_json
from pipeline.stages import build_command

FILES = ("model.float32.tflite", "model.float32.onnx")

#: Records its arguments, and says and ends as it was told for the first words it finds.
_ENGINE = """\
#!{python}
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
line = sys.argv[1:]
with open(os.path.join(here, "calls.jsonl"), "a") as log:
    log.write(json.dumps([os.path.basename(sys.argv[0]), *line]) + "\\n")
for words, told in json.load(open(os.path.join(here, "part.json"))):
    if all(word in line for word in words):
        time.sleep(told.get("seconds", 0))
        sys.stdout.write(told.get("out", ""))
        sys.stderr.write(told.get("err", ""))
        sys.exit(told.get("code", 0))
"""
_ALL_IS_WELL = [
    (["inspect", "--type"],
     {"out": json.dumps({"FromImageID": "2", "OCIv1": {"rootfs": {"diff_ids": ["a"]}}})}),
    (["image", "inspect"],
     {"out": json.dumps([{"Id": "sha256:1", "Size": 5e7, "RootFS": {"Layers": ["a", "b"]}}])}),
    (["run", "selftest"], {"out": '{"passed": true, "worst": 0}'}),
    (["run", "predict"], {"out": '{"class": "red"}'}),
    (["run", "--detach"], {"out": "warning: something\nc0ffee\n"}),
]  # fmt: skip


class FakeEngine:
    """A folder for ``PATH`` with programs named like engines; all goes well by default."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(_ENGINE.format(python=sys.executable))
            (folder / name).chmod(0o755)
        self.plays()

    def plays(self, *first: tuple[list[str], dict[str, Any]]) -> None:
        """Say how it answers; what comes first counts."""
        (self.folder / "part.json").write_text(json.dumps([*first, *_ALL_IS_WELL]))

    @property
    def calls(self) -> list[list[str]]:
        """Every command it was given."""
        log = self.folder / "calls.jsonl"
        return (
            [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        )

    def call(self, *words: str) -> list[str]:
        """Return the one command with these words."""
        (found,) = [call for call in self.calls if set(words) <= set(call)]
        return found


def finished_run(folder: Path, chosen: dict[str, str | None]) -> Path:
    """Write what a finished run leaves that a package needs.

    Args:
        folder: of the run.
        chosen: the file chosen for each target, or nothing where none fits.
    """
    for split in ("train", "test"):
        for colour in COLOURS:
            images = folder / "images" / split / colour
            images.mkdir(parents=True)
            for number in range(2):
                (images / f"{number}.png").write_bytes(encoded(coloured(colour, (SIZE, SIZE))))
    recipe = Recipe.load("quickstart", [f"data.name=image-folder:{folder / 'images'}"])
    run = folder / "run"
    export = run / "5-export"
    export.mkdir(parents=True)
    for name in FILES:
        classifier_file(export / name)
    parity = {"top1": {"value": 0.9}}
    entries = [{"file": name, "scheme": "float32", "parity": parity} for name in FILES]
    write_json(export / "files.json", entries)
    rows = [
        {
            "id": key,
            "chosen": file,
            "why": "Every file is too slow.",
            "files": [{"file": name, "fits": file is not None} for name in FILES]
            + [{"file": "model.huge.onnx", "fits": False}],
        }
        for key, file in chosen.items()
    ]
    profile = run / "6-profile"
    profile.mkdir()
    write_json(profile / "profile.json", {"files": [], "targets": rows})
    provenance = Provenance(
        stage="profile", key="k", parent=None, parameters={}, seed=0, git_commit=None,
        versions={}, seconds=0, finished_utc="2026-11-21T00:00:00Z",
    )  # fmt: skip
    files = {"profile.json": sha256(profile / "profile.json")}
    artifact = Artifact(kind="profile", files=files, metrics={}, provenance=provenance)
    write_json(profile / "stage.json", artifact.model_dump(mode="json"))
    (run / "recipe.toml").write_text(recipe.to_toml())
    return run


@contextmanager
def server(**answers: Any) -> Iterator[str]:
    """Answer ``/route`` with a status and a body of JSON, on a free port of loopback.

    Args:
        answers: ``route=(status, body)``; every other route is 404.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, body = answers.get(self.path.strip("/"), (404, {"error": "no route"}))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def only(engine: FakeEngine, monkeypatch: Any) -> FakeEngine:
    """Make an engine the only one there is, and pip's settings none."""
    monkeypatch.setenv("PATH", str(engine.folder))
    monkeypatch.setattr(build_command, "SETTINGS", "/nowhere/pip.conf")
    for name in ("PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    return engine
