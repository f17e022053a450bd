"""The command line: parse, one call, one printed result. It decides nothing.

Only click is imported here; everything else is imported by the command that needs it, so
that ``--help`` of each command answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_STAGES = {
    "train": "Train the recipe's network with its method, under its budget.",
    "prune": "Apply the masks and name every dead channel with its reason.",
    "quantize": "Plan the files' number formats and draw the calibration images.",
    "export": "Write ONNX and TFLite files and check each against PyTorch.",
}


class _Cli(click.Group):
    """Shows the user's problems in a sentence; anything else is a bug with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a problem of the user's ends with its exit code."""
        from pipeline.core.errors import PareError

        try:
            return super().invoke(ctx)
        except PareError as error:
            for line in str(error).splitlines():  # a problem a line
                click.echo(f"error: {line}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("error: interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=_Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pare", prog_name="pare")
def main() -> None:
    """Turn an image network and a list of devices into proved ONNX and TFLite files."""
    # Progress bars and tables are UTF-8; a terminal set otherwise must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all commands on a recipe share."""
    decorators = [
        click.option(
            "--target",
            "targets",
            multiple=True,
            metavar="NAME",
            help="Device, or path of a target file; repeatable. Replaces the recipe's.",
        ),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one value, such as budget.weights=0.05; repeatable.",
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            help="Folder of the run.  [default: runs/<recipe name>]",
        ),
        click.option(
            "--resume/--fresh",
            default=True,
            help="Go on from what is finished, or start over.  [default: resume]",
        ),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@main.command()
@click.argument("recipe", default="quickstart")
@_run_options
def run(recipe: str, **options: Any) -> None:
    """Run a RECIPE (a name that ships, or a TOML file) from training to verdicts.

    Without RECIPE the built-in quickstart runs: handwritten digits, three devices. Finished
    stages are skipped. Exit code 2: a problem you can solve; 3: a target has no file that
    fits.
    """
    _execute(recipe, until=None, **options)


def _stage_command(name: str, text: str) -> click.Command:
    @click.argument("run_or_recipe", default="quickstart")
    @_run_options
    def command(run_or_recipe: str, **options: Any) -> None:
        _execute(run_or_recipe, until=name, **options)

    command.__doc__ = (
        f"{text}\n\nRUN_OR_RECIPE is the folder of a run, a recipe that ships, or a TOML "
        "file. Stages before this one run first where they are not finished."
    )
    return click.command(name=name)(command)


for _name, _text in _STAGES.items():
    main.add_command(_stage_command(_name, _text))


@main.command()
@click.argument("source", metavar="[RUN_OR_RECIPE | FILE]", default="quickstart")
@click.option(
    "--on",
    metavar="MACHINE",
    help="Measure on local, ssh://USER@HOST, adb:SERIAL or container:PLATFORM; ssh or adb "
    "alone take the address from the variable that the target names.",
)
@click.option("--threads", type=click.IntRange(1), help="Of the runtime.  [default: target's]")
@click.option("--runs", type=click.IntRange(100), help="Of a repeat, at least.")
@click.option("--seconds", type=click.FloatRange(0), help="Of a repeat, at least.")
@click.option("--repeats", type=click.IntRange(1), help="Windows that must agree within 5 %.")
@click.option(
    "--identity",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="KEY",
    help="Private key for ssh.",
)
@click.option(
    "--image",
    metavar="IMAGE",
    help="Of the container: a folder with a root file system, or a reference.",
)
@click.option(
    "--benchmark-model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="PROGRAM",
    help="TensorFlow Lite's, built for a machine without Python.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the profile of FILE as JSON.")
@_run_options
def profile(source: str, on: str | None, as_json: bool, **options: Any) -> None:
    """Time each file, predict it for each target, and judge.

    RUN_OR_RECIPE is the folder of a run, a recipe that ships, or a TOML file. Stages before
    this one run first where they are not finished. With --on, the files of a run are measured
    on the one device that --target names, and its verdict is renewed.

    FILE is any .onnx or .tflite file; --target says for which devices, --out where its
    profile is kept.

    Exit code 2: a problem you can solve; 3: the file, or every file, breaks a limit.
    """
    names = ("threads", "runs", "seconds", "repeats", "identity", "image", "benchmark_model")
    how = {name: options.pop(name) for name in names}
    if Path(source).suffix.lower() in (".onnx", ".tflite"):
        from pipeline.cli.profiling import of_file

        picked = {name: options[name] for name in ("targets", "out", "quiet")}
        of_file(Path(source), on=on, as_json=as_json, **picked, **how)
    elif on:
        from pipeline.cli.profiling import of_run

        if as_json or options["out"] or options["overrides"] or not options["resume"]:
            raise click.UsageError(
                "--json, --out, --set and --fresh don't go with --on RUN: it measures the "
                "files that are there and renews their verdict."
            )

        of_run(Path(source), targets=options["targets"], on=on, quiet=options["quiet"], **how)
        # The run keeps the targets it has: with one alone it would make other files.
        _execute(source, until=None, **{**options, "targets": ()})
    else:
        _execute(source, until="profile", **options)


def _shape(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[int, int, int] | None:
    """Read the shape of an image, such as 3x224x224."""
    if value is None:
        return None
    sizes = value.lower().split("x")
    if len(sizes) != 3 or not all(part.isdecimal() and int(part) for part in sizes):
        raise click.BadParameter(f"{value!r}: write CHANNELSxHEIGHTxWIDTH, as in 3x224x224.")
    channels, height, width = map(int, sizes)
    return channels, height, width


@main.command()
@click.argument("source", metavar="[RUN_OR_RECIPE | CHECKPOINT]", default="quickstart")
@click.option(
    "--model",
    metavar="NAME",
    help="Network of CHECKPOINT: a listed model, torchvision:NAME, package.module:factory.",
)
@click.option(
    "--input", "shape", metavar="CxHxW", callback=_shape, help="Its images, as in 3x224x224."
)
@click.option("--zeros", is_flag=True, help="The zeros in its weights are the pruning.")
@click.option(
    "--masks",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Tensors of 0 and 1 by parameter name, multiplied in.",
)
@click.option(
    "--multiple",
    type=click.IntRange(1),
    default=1,
    help="Keep widths a multiple of N by dead channels, as kernels like it.  [default: 1]",
)
@_run_options
def compact(source: str, **options: Any) -> None:
    """Cut dead channels out and prove that the outputs are equal.

    RUN_OR_RECIPE is the folder of a run, a recipe that ships, or a TOML file. Stages before
    this one run first where they are not finished.

    CHECKPOINT (.safetensors, .pt, .pth) is a network that any tool pruned; it needs --model,
    --input, --out, and --zeros or --masks unless torch.nn.utils.prune left its masks in it.
    Here --set gives the model's own options, such as width=16, and --fresh writes over
    earlier files.
    """
    own = {name: options.pop(name) for name in ("model", "shape", "zeros", "masks")}
    multiple = options.pop("multiple")
    if any(own.values()) or Path(source).suffix in (".safetensors", ".pt", ".pth"):
        from pipeline.cli.compacting import execute

        execute(source, **own, multiple=multiple, **options)
    else:
        if multiple > 1:
            options["overrides"] += (f"compact.multiple={multiple}",)
        _execute(source, until="compact", **options)


def _execute(
    source: str,
    *,
    until: str | None,
    targets: tuple[str, ...],
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    quiet: bool,
) -> None:
    from pipeline.cli.running import execute

    execute(
        source,
        until=until,
        targets=targets,
        overrides=overrides,
        out=out,
        fresh=not resume,
        quiet=quiet,
    )


@main.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--target", "name", required=True, metavar="NAME", help="Device, or its file.")
@click.option("--file", metavar="FILE", help="Another file of RUN that fits the device.")
@click.option(
    "--engine",
    type=click.Choice(["docker", "podman", "buildah"]),
    help="That builds the image.  [default: the first that is installed]",
)
@click.option("--platform", metavar="OS/ARCH", help="Another that the device runs.")
@click.option("--push", metavar="REF", help="Push the image under this name too.")
@click.option("--context-only", is_flag=True, help="Write the context and build nothing.")
@click.option("--base", metavar="IMAGE", help="Pin the image that gives apt and pip.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def package(run: Path, quiet: bool, **options: Any) -> None:
    """Make a container image of the file that RUN chose for a device, and test it.

    A phone gets a folder for adb instead. The context of the build, and beside it compose.yaml
    and a systemd unit, lie in RUN/packages/NAME.

    Exit code 2: a problem you can solve; 4: no container engine is installed.
    """
    from pipeline.cli.packaging import execute

    execute(run, quiet=quiet, **options)


@main.command()
@click.argument(
    "folder", metavar="RUN", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
def report(folder: Path) -> None:
    """Write the report of RUN again: report.html, report.md and report.json."""
    from pipeline.report import write

    write(folder)
    click.echo(folder / "report.html")


@main.command()
@click.argument(
    "runs",
    metavar="RUN RUN [RUN]...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
@click.option(
    "--fail-on-regression",
    "demand",
    is_flag=True,
    help="End with exit code 3 if there is one.",
)
def compare(runs: tuple[Path, ...], **options: Any) -> None:
    """Compare runs: what differs in their recipes and in their results.

    The last RUN is held against the first. Over 5 % more latency, bytes or memory, over half
    a point less accuracy, or a target that no file fits any more is a regression. Latencies
    are compared only where processor, threads and runtime are the same and both are stable.

    Exit code 2: a RUN without a report.
    """
    from pipeline.cli.comparing import execute

    execute(runs, **options)


def _search_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that all searches share."""
    decorators = [
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Override one value of all trials; repeatable.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Trials at a time.  [default: as many as cores and memory allow]",
        ),
        click.option(
            "--cpus",
            type=click.IntRange(1),
            default=1,
            help="Cores of each trial.  [default: 1]",
        ),
        click.option(
            "--ray", metavar="ADDRESS", help="Of a Ray cluster to run the trials on."
        ),
        click.option("--quiet", is_flag=True, help="Print nothing but errors."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print each event as a JSON line."
        ),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


@main.command()
@click.argument("recipe", default="quickstart")
@click.option(
    "--grid",
    multiple=True,
    metavar="KEY=VALUE,...",
    help="Values to try of one key, such as budget.weights=0.1,0.05; repeatable.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    help="Runs of each combination.  [default: 1]",
)
@click.option(
    "--until",
    type=click.Choice(["train", "prune", "compact", "quantize", "export", "profile"]),
    help="Last stage of each trial.  [default: all, and its report]",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Device, or path of a target file; repeatable. Replaces the recipe's.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the sweep.  [default: runs/<recipe name>-sweep]",
)
@_search_options
def sweep(recipe: str, **options: Any) -> None:
    """Run every combination of a grid of values, and compare what came of them.

    Each trial is an ordinary run in trials/ of the sweep's folder; stages that trials have in
    common are computed once. The same command goes on after a stop, whatever stopped it. A
    trial that fails is told at the end, and the others go on.

    Exit code 2: a problem you can solve, or a trial that failed.
    """
    from pipeline.cli.sweeping import execute

    execute(recipe, **options)


def _numbers(kind: Callable[[str], Any]) -> Callable[..., tuple[Any, ...] | None]:
    """Read a list of numbers, such as 1,0.5,0.25, or none."""

    def read(
        _ctx: click.Context, _param: click.Parameter, value: str | None
    ) -> tuple[Any, ...] | None:
        try:
            if value in (None, "none"):
                return None if value is None else ()
            return tuple(kind(part) for part in value.split(","))
        except ValueError:
            raise click.BadParameter(
                f"{value!r}: write numbers, as in 0.5,0.25, or none."
            ) from None

    return read


@main.command()
@click.argument("recipe", default="quickstart")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME",
    help="Device, or path of a target file; repeatable.  [default: the recipe's]",
)
@click.option(
    "--widths",
    callback=_numbers(float),
    metavar="FACTOR,...",
    help="Of the model's width, to try.  [default: 1,0.5,0.25]",
)
@click.option(
    "--sizes",
    callback=_numbers(int),
    metavar="PIXELS,...",
    help="Of the images, to try, where the data can be resized.  [default: the recipe's]",
)
@click.option(
    "--weights",
    callback=_numbers(float),
    metavar="PART,...",
    help="Of the weights, kept by the recipe's method; or none.  [default: 0.2,0.1,0.05]",
)
@click.option(
    "--macs",
    callback=_numbers(float),
    metavar="PART,...",
    help="Of the multiply-accumulates, kept by the recipe's method.  [default: none]",
)
@click.option(
    "--channels",
    callback=_numbers(float),
    metavar="PART,...",
    help="Of the weights, kept by removing whole filters.  [default: 0.5,0.25]",
)
@click.option(
    "--more",
    type=click.IntRange(0),
    default=0,
    help="Networks of any width and part that Optuna proposes on top.  [default: 0]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(0, min_open=True),
    help="After which no training is begun any more.  [default: no limit]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the search.  [default: runs/<recipe name>-fit]",
)
@_search_options
def fit(recipe: str, **options: Any) -> None:
    """Find for each target the most accurate network that keeps its limits.

    The family is RECIPE made narrower, with smaller images, and pruned in several ways. What
    a network takes at least is counted before it is trained; a target that none can fit is
    told so at once. The others are trained, stopped early where they fall behind, and files
    are made of the best. The chosen recipe and file lie in targets/<name>/ of the folder.

    Exit code 2: a problem you can solve; 3: a target that no network of the family fits.
    """
    from pipeline.cli.fitting import execute

    axes = ("widths", "sizes", "weights", "macs", "channels")
    execute(recipe, space={name: options.pop(name) for name in axes}, **options)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
@click.option(
    "--time/--no-time",
    "timed",
    default=True,
    help="Run it to time its operators, or only read it.  [default: time]",
)
@click.option(
    "--top",
    type=click.IntRange(0),
    default=10,
    help="Single operators listed by time.  [default: 10]",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, help="Of the runtime.  [default: 1]"
)
def inspect(file: Path, **options: Any) -> None:
    """Look into FILE (.onnx, .tflite): what it carries, what of it is really int8.

    Prints its metadata, inputs and outputs, sizes, the arithmetic of its products, its float
    parts between integer parts, its operators by type and by time, and warnings.

    Exit code 2: a file that can't be read, or that says int8 and is 0 % int8.
    """
    from pipeline.cli.inspecting import execute

    execute(file, **options)


@main.command("list")
@click.argument(
    "what",
    type=click.Choice(
        ["methods", "models", "data", "targets", "quantizers", "exporters", "recipes"]
    ),
)
def list_(what: str) -> None:
    """List what there is, with a line on each."""
    from pipeline.cli.listing import listing

    _print_pairs(listing(what))


@main.group()
def targets() -> None:
    """Look at the devices files are made for."""


@targets.command("list")
def targets_list() -> None:
    """List the targets that ship, and your own."""
    from pipeline.cli.listing import listing

    _print_pairs(listing("targets"))


@targets.command("show")
@click.argument("name")
def targets_show(name: str) -> None:
    """Show a target (NAME or path) with the source of every figure."""
    from pipeline.cli.listing import target_lines

    click.echo("\n".join(target_lines(name)))


@targets.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def targets_check(file: Path) -> None:
    """Check a target FILE of your own, and say what pare can tell for it.

    Prints what is measured, predicted, bounded and unknown for the device, and warns of
    figures that do not go together. targets/README.md explains every key.

    Exit code 2: a key that doesn't exist, a value that is not allowed, a figure without a
    source.
    """
    from pipeline.cli.listing import checked_lines

    click.echo("\n".join(checked_lines(file)))


@targets.command("probe")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it.  [default: host.toml in your folder of targets]",
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def targets_probe(out: Path | None, force: bool) -> None:
    """Describe this machine as the target `host`, and print the path of the file.

    Your folder of targets is PARE_TARGETS, or else pare/targets in XDG_CONFIG_HOME or in
    ~/.config. Every TOML file in it is a target by the name of the file.
    """
    from pipeline.cli.probing import execute

    click.echo("\n".join(execute(out, force=force)))


@targets.command("validate")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as one JSON object.")
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write every compared row to FILE.",
)
def targets_validate(as_json: bool, csv_file: Path | None) -> None:
    """Compare the predictor with published latencies, leaving each network out once.

    Exit code 2: the error is beyond what this project promises.
    """
    from pipeline.cli.validating import execute

    execute(as_json=as_json, csv_file=csv_file)


@targets.command("calibrate")
@click.argument("name")
@click.argument("more", nargs=-1, type=click.Path(path_type=Path), metavar="")
@click.option(
    "--from",
    "profiles",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PROFILE...",
    help="JSON files of `pare profile`, of at least two networks measured on the device.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write.  [default: NAME itself if it is a file, else ./NAME.toml]",
)
def targets_calibrate(
    name: str, more: tuple[Path, ...], profiles: tuple[Path, ...], out: Path | None
) -> None:
    """Fit a target's rates to latencies that were measured on it.

    NAME is a target that ships, or a target file of your own. What is written is the target
    with its [[calibration]] for the profiles' runtime, version, number format and threads
    replaced or added; all else stays as it was.
    """
    from pipeline.cli.calibrating import execute

    execute(name, [*profiles, *more], out)


@main.command()
def doctor() -> None:
    """Show the version of every engine, what is missing, and how to install it."""
    from pipeline.cli.doctor import examine

    lines, whole = examine()
    click.echo("\n".join(lines))
    if not whole:
        raise click.exceptions.Exit(2)


def _print_pairs(pairs: list[tuple[str, str]]) -> None:
    width = max(len(key) for key, _ in pairs)
    for key, text in pairs:
        click.echo(f"{key:<{width}}  {text}")
