"""The report as a reader meets it: opened from disk, in a browser, wide and narrow."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image
from unit.report.report_run import records, write_run

from pipeline.report import write

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="chromium is not on PATH")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]

# Tells the page around it what only a browser knows. Browsers have windows no narrower than
# 500 pixels; a frame can be as narrow as a phone.
PROBE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, inside = [...document.querySelectorAll("body *")];
  const box = element => element.getBoundingClientRect();
  const files = document.querySelector("#files .scroll");
  const lost = inside.filter(element => !element.closest(".scroll, pre, svg")
    && box(element).right > innerWidth + 1);
  parent.postMessage({
    inner: innerWidth,
    scroll: root.scrollWidth,
    pictures: [...document.querySelectorAll("figure svg")].map(box).map(
      found => `${Math.round(found.width)}x${Math.round(found.height)}`),
    lost: lost.map(element => `${element.tagName}.${element.className}`).slice(0, 5),
    fits: files.scrollWidth <= files.clientWidth,
  }, "*");
});
</script></head>"""

AROUND = """<!DOCTYPE html><script>
const shown = document.documentElement.dataset;
addEventListener("message", event => Object.assign(shown, event.data));
</script><iframe src="probed.html" style="border: 0; width: {width}px"></iframe>"""


def browse(tmp_path, page, *options, width=1280, height=2400):
    """Open a page and return what the browser writes to its two outputs."""
    done = subprocess.run(
        [
            BROWSER,
            *FLAGS,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},{height}",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    found = records(22)
    files = found["beside"]["export"]["files.json"]
    files[2]["why"] = "the converter ended with a long reason: " + "no_such_operator_" * 12
    found["beside"]["profile"]["profile.json"]["targets"][1]["name"] = "A phone " * 12
    folder = write_run(tmp_path_factory.mktemp("report") / "run", found)
    write(folder)
    return folder / "report.html"


@pytest.fixture(params=[1280, 390])
def seen(request, page, tmp_path):
    """What the browser says of the page at a width; of a copy that allows a script."""
    text = page.read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    assert policy in text
    text = text.replace(policy, policy + "; script-src 'unsafe-inline'")
    (tmp_path / "probed.html").write_text(text.replace("</head>", PROBE, 1), encoding="utf-8")
    around = tmp_path / "around.html"
    around.write_text(AROUND.replace("{width}", str(request.param)), encoding="utf-8")
    dom, _ = browse(
        tmp_path, around, "--dump-dom", "--virtual-time-budget=5000", width=request.param + 40
    )
    found = dict(re.findall(r'data-(\w+)="([^"]*)"', dom))
    assert found["inner"] == str(request.param)
    return found


def test_nothing_overflows(seen):
    assert int(seen["scroll"]) <= int(seen["inner"])
    assert seen["lost"] == ""
    assert seen["fits"] == "true"  # the table of files is read without scrolling


def test_every_picture_has_a_size(seen):
    sizes = [tuple(map(int, size.split("x"))) for size in seen["pictures"].split(",")]
    assert len(sizes) == 10  # eight of the run, and of the two targets with a latency
    assert all(width > 280 and height > 100 for width, height in sizes)


def test_the_page_holds_the_rows_of_the_table_of_files(page, tmp_path):
    dom, _ = browse(tmp_path, page, "--dump-dom")
    files = dom[dom.index('<section id="files">') : dom.index('<section id="pictures">')]
    table, detail = files[: files.index("<details")], files[files.index("<details") :]
    for name in ("float32.onnx", "int8.tflite", "dynamic_range.tflite", "float16.tflite"):
        assert f"model.{name}" in table
    assert table.count("<tr>") == 5
    assert "1,234,567" in table
    assert detail.count("<tr>") == 4  # the measurements of two files in full, and their head
    assert "65.4" in detail


def test_the_browser_has_nothing_to_complain_of(page, tmp_path):
    _, log = browse(tmp_path, page, "--dump-dom", "--enable-logging=stderr")
    assert "CONSOLE" not in log


def test_a_script_would_have_been_refused_aloud(page, tmp_path):
    """The twin of the test above: it sees a complaint where there is one."""
    spoilt = tmp_path / "spoilt.html"
    text = page.read_text(encoding="utf-8").replace("</head>", "<script>1</script></head>", 1)
    spoilt.write_text(text, encoding="utf-8")
    _, log = browse(tmp_path, spoilt, "--dump-dom", "--enable-logging=stderr")
    assert "CONSOLE" in log


@pytest.mark.parametrize(("scheme", "value"), [("dark", 0), ("light", 1)])
def test_both_colour_schemes_are_drawn(page, tmp_path, scheme, value):
    picture = tmp_path / "page.png"
    browse(
        tmp_path,
        page,
        f"--screenshot={picture}",
        f"--blink-settings=preferredColorScheme={value}",
    )
    pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
    paper = np.median(pixels)
    assert paper < 60 if scheme == "dark" else paper > 200
    for band in np.array_split(pixels, 6):  # text or a picture in every part of the page
        assert (abs(band - paper) > 80).mean() > 0.002
