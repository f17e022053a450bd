"""What runs on a device: measure a file, ask it about images, serve it, check it.

``bench`` prints one JSON object a line: events while it measures, and at the very end the
result (``"event": "result"``) or one sentence on what went wrong (``"event": "error"``).
Without that last line nothing was measured. The other commands print one JSON object for each
image or event, and say what is wrong in one sentence on the standard error, with exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_FAILED, _REFUSED = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.command == "bench":
        if chosen.lifeline:
            _hold_on_to_stdin()
        return _bench(chosen)
    commands = {
        "predict": _predict,
        "selftest": _selftest,
        "serve": _serve,
        "watch": _watch,
    }
    return _guarded(commands[chosen.command], chosen)


def run() -> None:
    """Do what the command line says and end the process."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pare-runtime",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="measure a file on this machine")
    bench.add_argument("file", type=Path, help="an .onnx or .tflite file")
    bench.add_argument("--settings", default="{}", help="how to measure, as JSON")
    bench.add_argument(
        "--lifeline", action="store_true", help="stop when the standard input is closed"
    )
    _add_delegate(bench)

    predict = commands.add_parser("predict", help="classify images, one line of JSON each")
    predict.add_argument(
        "images", nargs="+", metavar="IMAGE|DIR|-", help="JPEG or PNG; - reads one from stdin"
    )
    _add_model(predict)

    selftest = commands.add_parser(
        "selftest", help="check a file against its golden vectors; exit code 0 or 1"
    )
    selftest.add_argument("model", nargs="?", type=Path, help="by default $PARE_MODEL")
    selftest.add_argument("--golden", type=Path, help="by default MODEL.golden.json")
    selftest.add_argument("--url", help="ask the server there instead, http://host:port")
    selftest.add_argument(
        "--wait", type=float, default=5.0, metavar="S", help="for each of its answers"
    )
    _add_threads(selftest)
    _add_delegate(selftest)

    watch = commands.add_parser("watch", help="classify what a camera sees")
    watch.add_argument("folder", nargs="?", type=Path, help="into which images are dropped")
    watch.add_argument("--source", help="/dev/video0 or rtsp://..., with OpenCV")
    watch.add_argument(
        "--every", type=float, default=0.5, metavar="S", help="seconds between two looks"
    )
    watch.add_argument("--once", action="store_true", help="stop when all was looked at")
    _add_model(watch)
    _add_serve(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="answer over HTTP: POST /predict and probes")
    _add_model(serve)
    serve.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for every network")
    serve.add_argument("--port", type=int, default=8080, help="0 for a free one")
    serve.add_argument("--workers", type=int, default=1, help="engines")
    serve.add_argument("--waiting", type=int, default=16, help="images that may wait")
    serve.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="for an answer"
    )
    serve.add_argument(
        "--request-timeout", type=float, default=10.0, metavar="S", help="for a whole request"
    )
    serve.add_argument("--largest", type=int, default=8_000_000, help="bytes of a body")
    serve.add_argument("--most-pixels", type=int, default=16_000_000, help="of an image")
    serve.add_argument("--connections", type=int, default=128, help="open at a time")
    serve.add_argument(
        "--grace", type=float, default=10.0, metavar="S", help="to finish after SIGTERM"
    )
    serve.add_argument("--quiet", action="store_true", help="no line for each request")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", type=Path, help="an .onnx or .tflite file; by default $PARE_MODEL"
    )
    _add_threads(command)
    _add_delegate(command)


def _add_threads(command: argparse.ArgumentParser) -> None:
    command.add_argument("--threads", type=int, default=1, help="of the engine")


def _add_delegate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--delegate",
        metavar="LIBRARY",
        help="external delegate of TFLite files, such as an NPU's; by default $PARE_DELEGATE",
    )
    command.add_argument(
        "--delegate-options",
        metavar="KEY:VALUE;...",
        help="for it; by default $PARE_DELEGATE_OPTIONS",
    )


def _guarded(command: Callable[[Any], int], chosen: Any) -> int:
    """Run a command; say what the user can solve in one sentence."""
    # Pillow warns of images that claim to be huge and goes on; here they are refused.
    warnings.filterwarnings("error", "Image size")
    try:
        from pipeline.runtime.tensors import EngineError

        try:
            return command(chosen)
        except EngineError as error:
            return _refuse(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("pipeline"):
            raise
        return _refuse(
            f"{error.name} is not installed; the runtime needs it. Install {error.name}."
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more at exit
        return _FAILED
    except KeyboardInterrupt:
        return 130


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return _REFUSED


def _model(given: Path | None) -> Path:
    named = given or os.environ.get("PARE_MODEL")
    if not named:
        from pipeline.runtime.tensors import EngineError

        raise EngineError("no model is named. Name one, or set PARE_MODEL to its path.")
    return Path(named)


def _delegate(chosen: Any) -> Any:
    """Return the delegate that was named; an empty name is none, whatever is set."""
    from pipeline.runtime.delegates import Delegate

    library, options = chosen.delegate, chosen.delegate_options
    if library is None:
        library = os.environ.get("PARE_DELEGATE")
        options = options or os.environ.get("PARE_DELEGATE_OPTIONS")
    return Delegate.of(library, options)


def _predict(chosen: Any) -> int:
    from pipeline.runtime import predicting

    model, delegate = _model(chosen.model), _delegate(chosen)
    return predicting.run(model, chosen.images, chosen.threads, delegate)


def _selftest(chosen: Any) -> int:
    from pipeline.runtime import selftest

    model = _model(chosen.model)
    delegate = _delegate(chosen)
    return selftest.run(
        model, chosen.golden, chosen.threads, chosen.url, chosen.wait, delegate
    )


def _watch(chosen: Any) -> int:
    from pipeline.runtime.tensors import EngineError

    if (chosen.folder is None) == (chosen.source is None):
        raise EngineError("give a folder to watch, or --source.")
    model, delegate = _model(chosen.model), _delegate(chosen)
    if chosen.source:
        from pipeline.runtime import camera

        return camera.run(
            model, chosen.source, chosen.threads, chosen.every, chosen.once, delegate
        )
    from pipeline.runtime import watching

    return watching.run(
        model, chosen.folder, chosen.threads, chosen.every, chosen.once, delegate
    )


def _serve(chosen: Any) -> int:
    from pipeline.runtime.serving import Options, run

    options = Options(
        host=chosen.host,
        port=chosen.port,
        threads=chosen.threads,
        workers=chosen.workers,
        waiting=chosen.waiting,
        timeout_s=chosen.timeout,
        request_s=chosen.request_timeout,
        largest=chosen.largest,
        most_pixels=chosen.most_pixels,
        connections=chosen.connections,
        grace_s=chosen.grace,
        quiet=chosen.quiet,
        delegate=_delegate(chosen),
    )
    return run(_model(chosen.model), options)


def _bench(chosen: Any) -> int:
    try:
        from pipeline.runtime.harness import Settings, profile
        from pipeline.runtime.tensors import EngineError
    except ModuleNotFoundError as error:
        needed = f"{error.name} is not installed; the runtime needs it. Install {error.name}."
        _tell({"event": "error", "message": needed})
        return _REFUSED
    try:
        settings = Settings.of(chosen.settings)
        result = profile(chosen.file, settings, _tell, _delegate(chosen))
    except EngineError as error:
        _tell({"event": "error", "message": str(error)})
        return _REFUSED
    _tell({"event": "result", "result": result})
    return 0


def _tell(event: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def _hold_on_to_stdin() -> None:
    """End this process when whoever started it is gone, so that no board works on alone."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)  # from a thread: sys.exit would end only this one

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    run()
