"""One recipe says what to do: the network, the data, the method, the budget, the targets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, Field

from pipeline.core.budget import Budget
from pipeline.core.errors import PareError, unknown
from pipeline.core.own_code import own_files
from pipeline.core.places import is_folder_of_images, placed
from pipeline.core.plugins import DATA, METHODS, MODELS, Room
from pipeline.core.record import Record, digest, parse, read_toml
from pipeline.core.target import Method, Target

RECIPES = Path(__file__).parent.parent / "recipes"

#: The tables that name a plug-in, and their keys that mean the same to each of them.
_OF_PLUGINS = {
    "model": ("name",),
    "data": ("name", "validation_fraction"),
    "method": ("name",),
}


class Choice(Record):
    """A plug-in by its key; every other key of the table is one of its own options."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The plug-in's own options as written, checked by the plug-in itself."""
        return dict(self.__pydantic_extra__ or {})


class ModelChoice(Choice):
    """The network, and the trained weights to start from, if any."""

    checkpoint: str | None = None


class DataChoice(Choice):
    """The images; where no validation folder exists a part of train is split off."""

    validation_fraction: float = Field(default=0.15, gt=0, lt=1)


class TrainOptions(Record):
    """How the one training loop runs, whatever the method.

    Attributes:
        batch_size: images of a step, over all processes together.
        channels_last: lay images out with their channels last, which convolutions are
            faster on; a network that calls ``view`` on what follows from them refuses it.
        recalibration_batches: batches of training images on which the batch norm
            statistics of a network are estimated before it is assessed or kept; 0 keeps
            the running averages of the training.
        teacher: weights of the same network, trained densely, that it learns from beside
            the labels; ``1-train/model.safetensors`` of another run, or any checkpoint.
        teacher_weight: part of the loss that the teacher has.
        teacher_temperature: by which both networks' outputs are softened for it.
        accelerator: as Lightning Fabric names it: ``cpu``, ``cuda``, ``auto``.
        devices: processes that train one network together, each on a device of its own or
            a part of the processor; a batch has to divide among them.
        strategy: ``auto`` or ``ddp`` where there are several; else any of Fabric's.
    """

    epochs: int = Field(default=40, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = Field(default=0.05, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup_epochs: int = Field(default=0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool = True
    deterministic: bool = True
    # Networks are assessed as float32: only what keeps their weights in it can be trained.
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    channels_last: bool = False
    recalibration_batches: int = Field(default=20, ge=0)
    teacher: str | None = None
    teacher_weight: float = Field(default=0.5, gt=0, le=1)
    teacher_temperature: float = Field(default=4.0, gt=0)
    accelerator: str = "auto"
    devices: int = Field(default=1, ge=1)
    strategy: str = "auto"


class CompactOptions(Record):
    """How widths are rounded, and what leaves beside the channels that are dead for certain.

    Attributes:
        multiple: of which layers keep their width, by a few dead channels, since kernels run
            at full speed on blocks of 4, 8 or 16.
        dead_on_data: what becomes of channels that are one constant on every calibration
            image: nothing, a list of them, or removal, whose price in accuracy is measured.
        calibration_images: of the training split, looked at for it.
    """

    multiple: int = Field(default=1, ge=1)
    dead_on_data: Literal["off", "list", "remove"] = "off"
    calibration_images: int = Field(default=200, ge=1)
    calibration_seed: int = 0


class QuantizeOptions(Record):
    """How the files' numbers are made small; which schemes are made follows from the targets.

    Attributes:
        schemes: made beside those that the targets take, such as ``["int16x8"]``.
        calibration_images: drawn from the training split, normalised as for validation.
        calibration_data: ``random`` calibrates on noise: for sizes and times, never to ship.
        method: how the range of an activation follows from what the images showed; where a
            converter does not offer it, min-max.
        equalise: move scale between the channels of neighbouring layers, which changes no
            output, so that one scale a layer fits all of its channels.
        bias_correction: shift the biases of integer files by what rounding the weights
            costs on average.
        max_accuracy_drop: points of top-1 that an integer file may lose. Where one loses
            more on the validation split, its most sensitive layers stay in float, and a
            file that loses more on the test split is not offered.
        qat_epochs: of training with rounded weights and activations before the files are
            made; the file is offered only if it is more accurate for it.
        qat_lr_factor: its learning rate, as a part of the training's.
    """

    schemes: list[str] = Field(default_factory=list)
    calibration_images: int = Field(default=200, ge=1)
    calibration_seed: int = 0
    calibration_data: Literal["train", "random"] = "train"
    method: Method = "min-max"
    equalise: bool = False
    bias_correction: bool = False
    max_accuracy_drop: float | None = Field(default=None, ge=0)
    qat_epochs: int = Field(default=0, ge=0)
    qat_lr_factor: float = Field(default=0.05, gt=0)


class ExportOptions(Record):
    """How the files are written and what they must reach to be offered.

    Attributes:
        opset: of ONNX files, unless a target's onnxruntime is too old for it.
        preprocessing: ``baked`` files take raw pixels and normalise them themselves.
        licence: of the weights, written into the files.
        exporters: keys of those to use, several of one format as cross-checks; all of them
            where the list is empty.
        max_float_difference: of a float32 file's logits, as a fraction of the largest.
        min_agreement: part of the test images that a quantized file must classify as the
            network does.
        converter_timeout_s: after which a converter is stopped.
    """

    opset: int = Field(default=18, ge=13)
    preprocessing: Literal["outside", "baked"] = "outside"
    licence: str | None = None
    exporters: list[str] = Field(default_factory=list)
    max_float_difference: float = Field(default=1e-4, gt=0)
    min_agreement: float = Field(default=0.9, ge=0, le=1)
    converter_timeout_s: float = Field(default=900, gt=0)


class ProfileOptions(Record):
    """How latency is measured on this machine.

    Attributes:
        runs: of one repeat, at least so many.
        seconds: and at least so long.
        repeats: which must agree within 5 %, or the latency is marked unstable.
    """

    warmup_runs: int = Field(default=10, ge=1)
    warmup_s: float = Field(default=0.5, ge=0)
    runs: int = Field(default=100, ge=100)
    seconds: float = Field(default=2, ge=0)
    repeats: int = Field(default=5, ge=1)
    threads: list[int] = Field(default=[1, 2], min_length=1)


class TrackOptions(Record):
    """Where a run can be watched; no result depends on it.

    Attributes:
        tensorboard: whether event files are written, to ``tracking`` in the run's folder.
        mlflow: address of an MLflow server (``http://...``), of a database
            (``sqlite:///...``), or a folder that gets one; none where empty. A password
            belongs in ``MLFLOW_TRACKING_PASSWORD``, not in here.
        experiment: that MLflow groups runs by.
    """

    tensorboard: bool = True
    mlflow: str = ""
    experiment: str = Field(default="pare", min_length=1)


class Recipe(Record):
    """Everything a run is made of.

    Written as TOML, one table a part; ``Recipe.load`` reads a file or a recipe that ships.

    >>> Recipe.load("quickstart").method.name
    'reparam'
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(default=0, ge=0, lt=2**32)
    targets: list[str] = Field(default_factory=list)
    model: ModelChoice
    data: DataChoice
    method: Choice = Choice(name="dense")
    budget: Budget = Budget()
    train: TrainOptions = TrainOptions()
    compact: CompactOptions = CompactOptions()
    quantize: QuantizeOptions = QuantizeOptions()
    export: ExportOptions = ExportOptions()
    profile: ProfileOptions = ProfileOptions()
    track: TrackOptions = TrackOptions()

    @classmethod
    def load(cls, source: str | Path = "quickstart", overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe from a file, or one that ships by its name.

        Relative paths in a file start at the file's folder, those of an override and of a
        recipe that ships at the current one; the recipe holds them in full. An override
        that names another plug-in drops the options that the file has for its own.

        Args:
            source: path of a TOML file, or the name of a shipped recipe.
            overrides: ``"table.key=value"``, values in TOML or plain text.

        Raises:
            PareError: no such recipe, unknown key, or a value that is not allowed.
        """
        path = _find(source)
        written = read_toml(path)
        # A recipe that ships must not send downloads to the installed package.
        if path.resolve().parent != RECIPES.resolve():
            written = placed(written, path.parent)
        texts = list(overrides)
        written = _without_options_of_others(written, _overridden(written, texts))
        values = placed(_overridden(written, texts), Path())
        values.setdefault("name", path.stem)
        recipe = parse(cls, values, str(path))
        recipe.check(str(path))
        return recipe

    def check(self, where: str = "recipe") -> None:
        """Refuse names that no room and no folder holds, before any work starts.

        Raises:
            PareError: unknown model, data set, method or target ("did you mean").
        """
        check_listed(MODELS, self.model.name, where)
        check_listed(DATA, self.data.name, where)
        check_listed(METHODS, self.method.name, where)
        for name in (*self.targets, *filter(None, [self.budget.target])):
            Target.load(name)

    def to_toml(self) -> str:
        """Write the recipe with every default spelled out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    def part(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the named parts as plain data, for the key of a stage."""
        return self.model_dump(mode="json", include=set(names))


def shipped() -> dict[str, Path]:
    """Return the recipes that ship, by name."""
    return {path.stem: path for path in sorted(RECIPES.glob("*.toml"))}


def fingerprint(recipe: Recipe) -> str:
    """Digest what a recipe names outside itself: data, checkpoints, own code, rates.

    A file is known by its path, size and time, a folder by those of every file in it. Of
    the user's code the module that is named counts, and those of its kin that it imports.
    The target of a budget counts with the rates that price the weights.
    """
    found: list[Any] = []
    paths = [
        recipe.data.name.partition(":")[2],
        recipe.data.options.get("root"),
        recipe.model.checkpoint,
        recipe.train.teacher,
        *_own_code(MODELS, recipe.model.name),
        *_own_code(DATA, recipe.data.name),
        *_own_code(METHODS, recipe.method.name),
    ]
    for path in (Path(text).expanduser() for text in paths if text):
        if path.is_file():
            files = [path]
        elif path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())
        else:
            continue
        found.append([[str(p), (s := p.stat()).st_size, s.st_mtime_ns] for p in files])
    if recipe.budget.target:
        target = Target.load(recipe.budget.target)
        found.append(target.model_dump(mode="json", include={"calibration", "runtimes"}))
    return digest(found)


def _own_code(room: Room, key: str) -> list[Path]:
    origin = room.source(key)
    return own_files(key.partition(":")[0], Path(origin)) if origin else []


def _find(source: str | Path) -> Path:
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        return path
    recipes = shipped()
    if str(source) not in recipes and len(path.parts) > 1:
        what = "is a folder, not a recipe" if path.is_dir() else "is no folder and no file"
        raise PareError(
            f"{source} {what}. Give the folder of a run, a TOML file, or a recipe that "
            f"ships: {', '.join(recipes)}."
        )
    if str(source) not in recipes:
        raise unknown("recipe", str(source), recipes)
    return recipes[str(source)]


def check_listed(room: Room, key: str, where: str) -> None:
    """Refuse a name that a room does not hold, nor any library by ``package.module:name``.

    Raises:
        PareError: names the nearest one that there is.
    """
    plugins = room.plugins()
    head, colon, _ = key.partition(":")
    if colon or head in plugins or head.replace("-", "_") in plugins:
        return
    raise PareError(f"{where}: {unknown(room.kind, key, plugins)}")


def _without_options_of_others(
    written: Mapping[str, Any], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a file's values without the options of plug-ins that are not the wanted ones."""
    kept = dict(written)
    for name, common in _OF_PLUGINS.items():
        old, new = written.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and not _same(old, new):
            kept[name] = {key: value for key, value in old.items() if key in common}
    return kept


def _same(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Tell whether two tables name one plug-in; a folder of images is as good as another."""
    one, other = old.get("name"), new.get("name")
    return one == other or (is_folder_of_images(one) and is_folder_of_images(other))


def _overridden(values: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """Return a copy of ``values`` with every override applied, in their order."""
    changed = dict(values)
    for text in texts:
        changed = _with_override(changed, text)
    return changed


def _with_override(values: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return a copy of ``values`` with one ``a.b=c`` applied."""
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise PareError(f"--set {text!r} is not of the form table.key=value.")
    return _replaced(values, path, value_of(value), text)


def value_of(text: str) -> Any:
    """Return what a text stands for: a value of TOML, or else the text itself.

    >>> value_of("0.5"), value_of("[1, 2]"), value_of("reparam")
    (0.5, [1, 2], 'reparam')
    """
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _replaced(
    values: Mapping[str, Any], path: Sequence[str], value: Any, text: str
) -> dict[str, Any]:
    """Return a copy of ``values`` with ``value`` at ``path``, tables made on the way."""
    head, *rest = path
    if not rest:
        return {**values, head: value}
    table = values.get(head, {})
    if not isinstance(table, Mapping):
        raise PareError(f"--set {text!r}: {head!r} is a value, not a table.")
    return {**values, head: _replaced(table, rest, value, text)}
