"""One target file says what a device can take, and where each of its figures comes from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from pipeline.core import own_targets
from pipeline.core.errors import PareError, unknown
from pipeline.core.record import Record, parse, read_toml

Dtype = Literal["fp32", "fp16", "dynamic", "int8", "int16x8", "w8", "int4"]
"""What a file computes in.

``dynamic``: 8-bit weights, activations quantized as they come. ``w8``: 8-bit weights widened
to float before they are used. ``int16x8``: 16-bit activations, 8-bit weights. ``int4``: 4-bit
weights where there are kernels for them, 8-bit activations.
"""

Format = Literal["onnx", "tflite"]
Granularity = Literal["per-channel", "per-tensor"]
Method = Literal["min-max", "percentile", "entropy", "mse"]
"""How the range of an activation is taken from what calibration showed of it."""

FigureBasis = Literal["vendor", "measured", "fitted", "derived", "assumed"]

_PACKAGE = Path(__file__).parent.parent

# What 32-bit Arm is called, and where containers for it are.
_ARM_32 = ("arm", "armhf", "armv6", "armv6l", "armv7", "armv7l")
_ARM_PORT = "linux/arm/"

# The end of a key is its unit, longest first so that `memcpy_mb_s` isn't read as seconds.
_UNITS = {
    "_macs_per_cycle": "MAC/cycle",
    "_gmac_s": "GMAC/s",
    "_mb_s": "MB/s",
    "_gb_s": "GB/s",
    "_gops": "GOP/s",
    "_mhz": "MHz",
    "_pct": "%",
    "_mb": "MB",
    "_kb": "KB",
    "_ms": "ms",
    "_us": "us",
    "_w": "W",
}


def _not_negative(figure: Figure) -> Figure:
    if figure.value < 0:
        raise ValueError("a physical figure is not negative")
    return figure


class Figure(Record):
    """A physical figure, which is nothing without its basis and its source.

    >>> print(Figure(value=2325, basis="measured", source="sbc-bench"))
    2325 (measured: sbc-bench)
    """

    value: int | float
    basis: FigureBasis
    source: str = Field(min_length=1)

    def __str__(self) -> str:
        return f"{self.value:g} ({self.basis}: {self.source})"


Quantity = Annotated[Figure, AfterValidator(_not_negative)]


class FigureRow(NamedTuple):
    """One figure of a target as ``pare targets show`` prints it."""

    key: str
    value: int | float
    unit: str
    basis: str
    source: str


class System(Record):
    """A processor and its system, as containers and compilers name them."""

    arch: str | None = None
    variant: str | None = None
    triple: str | None = None
    docker_platform: str | None = None
    libc: str | None = None

    def lacks(self, format: Format) -> str:  # noqa: A002
        """Say why no engine runs files of ``format`` here, or nothing where one does."""
        narrow = (self.arch or "").lower() in _ARM_32
        if format == "onnx" and (narrow or (self.docker_platform or "").startswith(_ARM_PORT)):
            return "onnxruntime has no wheel for 32-bit Arm"
        return ""


class Variant(System):
    """Another system that the same device may run, and the formats it takes there."""

    docker_platform: str
    formats: tuple[Format, ...] = Field(min_length=1)
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _has_engines(self) -> Variant:
        for one in self.formats:
            if why := self.lacks(one):
                raise ValueError(f"{why}: take {one!r} out of formats")
        return self


class Platform(System):
    """What the container and the files are built for."""

    os: str
    android_abi: str | None = None
    variants: tuple[Variant, ...] = ()


class Cluster(Record):
    """Cores of one kind. MACs a cycle are those of one core, in its widest instruction."""

    core: str
    count: Quantity
    freq_mhz: Quantity
    isa: tuple[str, ...] = ()
    fp32_macs_per_cycle: Quantity | None = None
    int8_macs_per_cycle: Quantity | None = None


class Cpu(Record):
    """The clusters, fastest first, and the mask of the cores that are used."""

    affinity_mask: str | None = Field(default=None, pattern=r"^0x[0-9a-f]+$")
    clusters: tuple[Cluster, ...] = Field(min_length=1)


class Memory(Record):
    """Sizes in MB of 10^6 bytes (keys in KB: of 1024), rates as tinymembench prints them.

    ``memcpy_mb_s`` counts one direction: the bus carries twice as much. Where ``flash_mb``
    is known, weights and the runtime's code stay there, and only activations and what the
    runtime needs beside them take RAM.
    """

    ram_mb: Quantity | None = None
    budget_mb: Quantity | None = None
    memcpy_mb_s: Quantity | None = None
    memset_mb_s: Quantity | None = None
    cache_l1d_kb: Quantity | None = None
    cache_l2_kb: Quantity | None = None
    cache_l3_kb: Quantity | None = None
    flash_mb: Quantity | None = None
    runtime_flash_kb: Quantity | None = None
    runtime_ram_kb: Quantity | None = None

    @property
    def last_cache_kb(self) -> Quantity | None:
        """The largest cache that all of the cores' data goes through, if one is known."""
        return self.cache_l3_kb or self.cache_l2_kb


class Decision(Record):
    """A table whose entries share one basis and one source."""

    basis: FigureBasis
    source: str = Field(min_length=1)


class OpTable(Decision):
    """Operators by the names of the file's format (``CONV_2D``, ``Conv``)."""

    names: tuple[str, ...] = Field(min_length=1)


class Accelerator(Record):
    """A unit beside the CPU. Its peak bounds a latency and never predicts one.

    Attributes:
        peak_gops: by dtype, in operations: a MAC is two.
        ops: operators it computes; what is not among them runs on the CPU.
        one_partition: whether all that follows the first operator outside runs on the CPU.
        max_rank: innermost dimensions of a tensor that may be above one.
        min_coverage_pct: share of operators and of MACs that must run on it.
        parameter_cache_mb: weights it keeps; what is beyond streams in on every run.
        on_fail: ``reject`` where a file below the coverage is of no use, ``cpu`` where it
            runs on the processor instead.
    """

    name: str
    kind: Literal["npu", "gpu", "dsp"]
    peak_gops: dict[Dtype, Quantity] = Field(default_factory=dict)
    host_link: str | None = None
    sram_kb: Quantity | None = None
    ops: OpTable | None = None
    one_partition: bool = False
    max_rank: Quantity | None = None
    min_coverage_pct: Quantity | None = None
    parameter_cache_mb: Quantity | None = None
    on_fail: Literal["cpu", "reject"] = "cpu"

    @model_validator(mode="after")
    def _is_possible(self) -> Accelerator:
        if self.min_coverage_pct and self.min_coverage_pct.value > 100:
            raise ValueError("min_coverage_pct is at most 100")
        if self.max_rank and self.max_rank.value < 1:
            raise ValueError("max_rank is at least 1")
        return self


class Storage(Record):
    """What one file may weigh, in MB of 10^6 bytes."""

    model_max_mb: Quantity | None = None


class Power(Record):
    """Board power; what is unknown is absent.

    Attributes:
        meter_command: a program on the host, as a list of its arguments, that prints one
            number of watts a line while it runs.
    """

    idle_w: Quantity | None = None
    load_w: Quantity | None = None
    meter_command: tuple[str, ...] | None = Field(default=None, min_length=1)


class Ops(Record):
    """Operators by the names of the file's format (``CONV_2D``, ``Conv``)."""

    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None


class Constraints(Decision):
    """What a file must look like to be taken at all.

    Attributes:
        int8_granularity: allowed scales of integer weights, the preferred one first;
            absent means any.
        max_peak_activation_mb: limit on the planned arena, weights not counted.
        ops: operators refused, or the only ones taken.
    """

    formats: tuple[Format, ...] = Field(min_length=1)
    dtypes: tuple[Dtype, ...] = Field(min_length=1)
    int8_granularity: tuple[Granularity, ...] | None = None
    static_shapes: bool = False
    batch: int | None = Field(default=None, ge=1)
    io_dtypes: tuple[str, ...] | None = None
    input_max_hw: tuple[int, int] | None = None
    max_peak_activation_mb: float | None = Field(default=None, gt=0)
    ops: Ops = Ops()


class RuntimeFact(Record):
    """An inference engine that runs on the device."""

    name: Literal["litert", "onnxruntime"]
    version: str | None = None
    unit: Literal["cpu"] = "cpu"
    threads: tuple[int, ...] = Field(min_length=1)
    default_threads: int = Field(ge=1)

    @model_validator(mode="after")
    def _default_is_offered(self) -> RuntimeFact:
        if self.default_threads not in self.threads:
            raise ValueError(f"default_threads must be one of threads {list(self.threads)}")
        return self


class Rates(Record):
    """Two effective rates of one runtime on one device: t = MACs / R + bytes / B + overhead.

    >>> Rates(r_gmac_s=10, b_gb_s=2).ms(macs=50_000_000, activation_bytes=4_000_000)
    7.0
    """

    r_gmac_s: float = Field(gt=0)
    b_gb_s: float = Field(gt=0)
    overhead_us: float = Field(default=0, ge=0)

    def ms(self, macs: float, activation_bytes: float) -> float:
        """Return the milliseconds of one inference; what every prediction is made with."""
        return (
            macs / self.r_gmac_s * 1e-6
            + activation_bytes / self.b_gb_s * 1e-6
            + self.overhead_us * 1e-3
        )


class Calibration(Rates):
    """The rates of one (runtime, dtype, threads), and what they were fitted to.

    Attributes:
        runtime: ``xnnpack`` runs TFLite files, ``onnxruntime`` ONNX files.
        version: of the engine that was timed (``2.3.0`` of LiteRT); absent where the
            source doesn't say. The rates of one version are not those of another.
        threads: absent where the source doesn't say; then it stands for the default.
        loo_mape_pct: leave-one-model-out error. Above 48 % the interval that follows
            from it has no finite upper end, and the rates are no calibration.
        macs_min: MACs of the smallest calibrating model; beyond it is extrapolation.
        macs_max: MACs of the largest one.
    """

    runtime: Literal["xnnpack", "onnxruntime"]
    version: str | None = Field(default=None, min_length=1)
    dtype: Dtype
    threads: int | None = Field(default=None, ge=1)
    unit: Literal["cpu"] = "cpu"
    n_models: int | None = Field(default=None, ge=1)
    loo_mape_pct: float | None = Field(default=None, gt=0, le=48)
    macs_min: float | None = Field(default=None, gt=0)
    macs_max: float | None = Field(default=None, gt=0)
    basis: FigureBasis
    source: str = Field(min_length=1)


class Budgets(Decision):
    """What the product grants one network on this device; ``None`` means unlimited.

    Sizes in MB of 10^6 bytes; ``accuracy_drop_pct`` in points of top-1.
    """

    latency_p90_ms: float | None = Field(default=None, gt=0)
    model_mb: float | None = Field(default=None, gt=0)
    peak_ram_mb: float | None = Field(default=None, gt=0)
    accuracy_drop_pct: float | None = Field(default=None, ge=0)


class Profile(Record):
    """How to measure on the device itself."""

    warmup_runs: int = Field(default=10, ge=1)
    warmup_min_s: float = Field(default=0.5, ge=0)
    min_runs: int = Field(default=100, ge=64)
    min_s: float = Field(default=10, ge=0)
    max_s: float = Field(default=120, gt=0)
    cooldown_s: float = Field(default=30, ge=0)
    max_temp_c: float | None = None


class Transport(Record):
    """How to reach the device; names of environment variables, never secrets.

    Attributes:
        port: of the SSH server; the client's own setting where absent.
        python: interpreter on the device.
        folder: where scratch directories are made; the device's own choice where absent.
    """

    kind: Literal["local", "ssh", "adb"]
    host_env: str | None = None
    serial_env: str | None = None
    known_hosts: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    python: str = Field(default="python3", min_length=1)
    folder: str | None = Field(default=None, min_length=1)


class ReferenceLatency(Record):
    """A published row to compare with. Published tables hold outliers: never a truth."""

    model: str
    runtime: str | None = None
    dtype: Dtype
    threads: int | None = None
    unit: Literal["cpu", "npu"] = "cpu"
    ms: float = Field(gt=0)
    basis: FigureBasis
    source: str = Field(min_length=1)


class Target(Record):
    """Everything known of a device, and everything it demands of a file.

    >>> Target.load("raspberry-pi-4b").constraints.formats
    ('tflite', 'onnx')
    """

    schema_: Literal["edge-target/1"] = Field(alias="schema")
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    name: str
    class_: Literal["sbc", "mobile", "smart-camera", "on-sensor", "mcu", "pc"] = Field(
        alias="class"
    )
    platform: Platform
    cpu: Cpu | None = None
    memory: Memory = Memory()
    accelerator: Accelerator | None = None
    storage: Storage = Storage()
    power: Power = Power()
    constraints: Constraints
    runtimes: tuple[RuntimeFact, ...] = ()
    calibration: tuple[Calibration, ...] = ()
    budgets: Budgets | None = None
    profile: Profile = Profile()
    transport: Transport | None = None
    reference_latencies: tuple[ReferenceLatency, ...] = ()

    @classmethod
    def load(cls, name_or_path: str | Path) -> Target:
        """Read a target file, or by its name one that ships or is in the user's folder.

        Raises:
            PareError: no such target, one of the user's that has the name of one that
                ships, an unknown key, or a value that is not allowed.
        """
        path = Path(name_or_path)
        if path.suffix != ".toml":
            path = _find(str(name_or_path))
        return parse(cls, read_toml(path), str(path))

    @model_validator(mode="after")
    def _has_engines(self) -> Target:
        for one in self.constraints.formats:
            if why := self.platform.lacks(one):
                raise ValueError(
                    f"constraints.formats holds {one!r}, but {why}. Take it out, or describe "
                    "a 64-bit system in [platform]"
                )
        return self

    def figures(self) -> list[FigureRow]:
        """List every figure with its unit, basis and source, in the file's order."""
        return list(_walk("", self.model_dump(by_alias=True, exclude_none=True)))

    def runtime_for(self, format: Format) -> RuntimeFact | None:  # noqa: A002
        """Return the engine that runs files of ``format`` here, if there is one."""
        name = "litert" if format == "tflite" else "onnxruntime"
        return next((runtime for runtime in self.runtimes if runtime.name == name), None)


def shipped() -> dict[str, Path]:
    """Return the targets that ship, by name."""
    installed = _PACKAGE / "_targets"
    folder = installed if installed.is_dir() else _PACKAGE.parent / "targets"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _find(name: str) -> Path:
    """Return the file of a target that ships, or else of one in the user's folder."""
    ships, own = shipped(), own_targets.own()
    if name in ships and name in own:
        raise PareError(
            f"{own[name]} has the name of a target that ships. Rename it, or give its path."
        )
    if name == own_targets.HOST and name not in own:
        raise PareError(
            f"no target named {name!r} yet. Run `pare targets probe`, which describes this "
            f"machine in {own_targets.folder() / f'{name}.toml'}."
        )
    known = {**own, **ships}
    if name not in known:
        raise unknown("target", name, known)
    return known[name]


def unit_of(key: str) -> str:
    """Return the unit a key carries in its name.

    >>> unit_of("memory.memcpy_mb_s")
    'MB/s'
    >>> unit_of("cpu.clusters.0.count")
    ''
    """
    parts = key.split(".")
    for part in (parts[-1], *parts[-2:-1]):  # peak_gops.int8: the unit is the table's
        for suffix, unit in _UNITS.items():
            if f"_{part}".endswith(suffix):
                return unit
    return ""


def _walk(path: str, value: Any) -> Iterator[FigureRow]:
    """Yield the figures below ``value``: inline tables, and rows that share a source."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _walk(f"{path}.{index}", item)
    elif isinstance(value, dict) and value.keys() == {"value", "basis", "source"}:
        yield FigureRow(path, value["value"], unit_of(path), value["basis"], value["source"])
    elif isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{key}" if path else key
            if "source" in value and unit_of(below) and isinstance(item, int | float):
                yield FigureRow(below, item, unit_of(below), value["basis"], value["source"])
            else:
                yield from _walk(below, item)
