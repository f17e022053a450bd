"""What a machine needs to measure a file: one archive, and the script that unpacks it.

The same POSIX script serves a board, a phone and a container. It makes a folder of random
name, checks what arrived, measures, and removes the folder whatever happens: also when the
connection is lost, since the program that measures ends with its standard input.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pipeline.core.errors import PareError
from pipeline.profilers.transports.talk import Said
from pipeline.runtime.harness import Settings

_RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
_PROGRAM = "pare-runtime.pyz"

NO_FOLDER, NO_ROOM, HARMED, NO_PYTHON, OLD_PYTHON, NO_TOOL = 71, 72, 73, 74, 75, 76

_SCRIPT = """\
umask 077
fail() {{ echo "$1" >&2; exit "$2"; }}
for tool in mktemp head tar sha256sum; do
  command -v "$tool" >/dev/null || fail "no $tool" {no_tool}
done
dir=$(mktemp -d {base}/pare.XXXXXXXXXX) || fail "no folder" {no_folder}
trap 'cd /; rm -rf -- "$dir"' EXIT
trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 143' TERM
cd "$dir" || fail "no folder" {no_folder}
head -c {size} > payload.tar || fail "no room" {no_room}
got=$(sha256sum < payload.tar)
[ "${{got%% *}}" = {digest} ] || fail "harmed" {harmed}
tar -xf payload.tar || fail "no room" {no_room}
rm -f payload.tar
{run}
"""

_PYTHON = """\
command -v {python} >/dev/null || fail "no Python" {no_python}
{python} -c 'import sys; sys.exit(sys.version_info < (3, 9))' || fail "old Python" {old_python}
{python} {program} bench --lifeline --delegate= --settings {settings} {file}
"""


def archive(path: Path) -> tuple[bytes, str]:
    """Pack a file, what its weights are stored in, and the runtime.

    Inside, the file has a plain name: what it is called here never reaches a shell there.

    Returns:
        A tar archive, and the file's name in it.

    Raises:
        PareError: the file is not there, or is of a kind that nothing runs.
    """
    if path.suffix not in (".onnx", ".tflite") or not path.is_file():
        raise PareError(f"{path}: an .onnx or .tflite file is needed. Check the path.")
    name = f"model{path.suffix}"
    beside = {found.name: found for found in _stored_beside(path)}
    return packed({name: path, **beside}, {_PROGRAM: runtime()}), name


def packed(files: Mapping[str, Path], contents: Mapping[str, bytes] | None = None) -> bytes:
    """Return a tar archive of files under the names they get there, all of them runnable."""
    stored = io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as tar:
        for name, path in files.items():
            _add(tar, name, path.read_bytes())
        for name, content in (contents or {}).items():
            _add(tar, name, content)
    return stored.getvalue()


def runtime() -> bytes:
    """Return ``pipeline.runtime`` as one file that Python runs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("pipeline/__init__.py", "")
        for path in sorted(_RUNTIME.glob("*.py")):
            packed.writestr(f"pipeline/runtime/{path.name}", path.read_bytes())
        packed.writestr(
            "__main__.py",
            "import sys\nfrom pipeline.runtime.__main__ import main\nsys.exit(main())\n",
        )
    return content.getvalue()


def script(
    payload: bytes, file: str, settings: Settings, *, python: str, folder: str | None
) -> str:
    """Return the POSIX script that measures ``file`` of the payload given to its input.

    Args:
        payload: what :func:`archive` packed.
        file: its name in there.
        settings: how to measure.
        python: the interpreter over there.
        folder: where the scratch folder is made, ``$TMPDIR`` or ``/tmp`` by default.
    """
    run = _PYTHON.format(
        python=shlex.quote(python),
        program=_PROGRAM,
        settings=shlex.quote(json.dumps(asdict(settings))),
        file=shlex.quote(file),
        no_python=NO_PYTHON,
        old_python=OLD_PYTHON,
    )
    return wrapped(payload, run, folder)


def wrapped(payload: bytes, run: str, folder: str | None) -> str:
    """Return a script that unpacks a payload, runs something and removes all of it."""
    return _SCRIPT.format(
        base=shlex.quote(folder) if folder else '"${TMPDIR:-/tmp}"',
        size=len(payload),
        digest=hashlib.sha256(payload).hexdigest(),
        run=run,
        no_tool=NO_TOOL,
        no_folder=NO_FOLDER,
        no_room=NO_ROOM,
        harmed=HARMED,
    )


def explain(said: Said, where: str) -> str | None:
    """Say what the script ran into and what to do; ``None`` where it is not its own word."""
    if said.error:
        return f"{where}: {said.error}"
    told = said.stderr.splitlines()
    last = told[0] if told else ""
    reasons = {
        NO_TOOL: f"it lacks a tool that the transfer needs ({last}). Install coreutils and "
        "tar, or busybox.",
        NO_FOLDER: f"no scratch folder can be made there ({last}). Set transport.folder in "
        "the target's file to one that can be written.",
        NO_ROOM: f"the disk is full there ({last}). Free some space, or set transport.folder "
        "in the target's file to a larger disk.",
        HARMED: "what arrived there is not what was sent: the connection broke off, or the "
        f"disk is full ({last}). Try again.",
        NO_PYTHON: "there is no Python there under that name. Install python3, set "
        "transport.python in the target's file, or give --benchmark-model.",
        OLD_PYTHON: "Python there is older than 3.9. Set transport.python in the target's "
        "file to a newer one.",
    }
    reason = reasons.get(said.code)
    return f"{where}: {reason}" if reason else None


def _stored_beside(path: Path) -> list[Path]:
    """Return the files that hold the weights of a large ONNX file.

    Raises:
        PareError: one of them is not beside the file under a plain name, or is missing.
    """
    if path.suffix != ".onnx":
        return []
    names = _external_names(path)
    for name in sorted(names):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) or name in (
            _PROGRAM,
            "model.onnx",
            "payload.tar",
        ):
            raise PareError(
                f"{path} keeps weights in {name!r}, which is no plain name beside it. Save it "
                f"again with its weights inside, or in one file beside it."
            )
        if not (path.parent / name).is_file():
            raise PareError(
                f"{path} keeps weights in {name}, which is not there. Copy it beside the file."
            )
    return [path.parent / name for name in sorted(names)]


def _external_names(path: Path) -> set[str]:
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own classes differ by version
        raise PareError(f"{path} is not a readable ONNX file: {error}.") from error
    return {
        entry.value
        for tensor in model.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o700
    tar.addfile(entry, io.BytesIO(content))
