"""What comes back from another machine is checked before anything of it is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import PareError
from pipeline.runtime.harness import SCHEMA

_Ms = Annotated[float, Field(ge=0)]
_Bytes = Annotated[int, Field(ge=0)]


class _Wire(BaseModel):
    """A table of the answer: numbers are finite; what is not named here is let through."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _File(_Wire):
    format: Literal["onnx", "tflite"]
    bytes: _Bytes
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class _Timing(_Wire):
    n: int = Field(ge=1)
    min_ms: _Ms
    mean_ms: _Ms
    std_ms: _Ms | None
    median_ms: _Ms | None
    p5_ms: _Ms | None
    p90_ms: _Ms | None
    p95_ms: _Ms | None
    p99_ms: _Ms | None
    p90_claim_ms: _Ms | None
    median_interval_ms: tuple[_Ms, _Ms] | None
    drift: float | None


class _Repeats(_Wire):
    spread: float = Field(ge=0)
    stable: bool | None


class _Window(_Wire):
    n: int = Field(ge=1)
    median_ms: _Ms | None
    mean_ms: _Ms
    samples_ms: list[_Ms]


class _Load(_Wire):
    import_ms: _Ms | None
    cold_ms: _Ms | None
    warm_ms: _Ms | None
    cache_dropped: bool


class _Memory(_Wire):
    start_bytes: _Bytes | None
    loaded_bytes: _Bytes | None
    steady_bytes: _Bytes | None
    peak_bytes: _Bytes | None


class _Warmup(_Wire):
    runs: int = Field(ge=0)
    mean_ms: _Ms
    seconds: float = Field(ge=0)


class _Around(_Wire):
    median_ms: dict[str, _Ms] = Field(default_factory=dict)
    why: str = ""


class _Energy(_Wire):
    method: str
    gross_mj: float
    windows: int = Field(ge=1)


class _Kernel(_Wire):
    name: str
    kernel: str
    median_ms: _Ms


class _Operators(_Wire):
    kernels: list[_Kernel]
    why: str


class _Tensor(_Wire):
    name: str
    dtype: str
    shape: list[_Bytes]
    sha256: str
    base64: str | None


class _Outputs(_Wire):
    inputs: int = Field(ge=1)
    tensors: list[_Tensor]


class _Machine(_Wire):
    machine: str | None
    cpu: str | None
    cpu_parts: list[str] = Field(default_factory=list)


class _Conditions(_Wire):
    before: _Machine
    after: _Machine


class _Settings(_Wire):
    threads: int = Field(ge=1)


class _Answer(_Wire):
    """What was answered whether or not its time counts."""

    file: _File
    runtime: str
    runtime_version: str
    settings: _Settings
    refused: str | None
    outputs: _Outputs | None
    conditions: _Conditions
    complete: Literal[True]


class _Timed(_Answer):
    """What was answered where the time counts."""

    load: _Load
    first_ms: _Ms
    warmup: _Warmup | None
    timing: _Timing
    repeats: _Repeats
    windows: list[_Window] = Field(min_length=1)
    memory: _Memory | None
    energy: _Energy | None
    around: _Around
    operators: _Operators | None = None


def checked(result: Any, *, sha256: str, where: str) -> dict[str, Any]:
    """Return a result that is whole, sane, and of the very file that was sent.

    Args:
        result: what a machine answered.
        sha256: of the file that it was given.
        where: the machine, for messages.

    Raises:
        PareError: it is not what the harness returns, or of another file.
    """
    if not isinstance(result, Mapping) or result.get("schema") != SCHEMA:
        raise PareError(
            f"{where} answered something that is no measurement. Nothing of it is used; see "
            f"what runs there under the name of the runtime."
        )
    form = _Answer if result.get("refused") else _Timed
    try:
        form.model_validate(dict(result))
    except ValidationError as problem:
        first = problem.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise PareError(
            f"{where} answered a measurement that can't be ({key}: {first['msg'].lower()}). "
            f"Nothing of it is used; measure again."
        ) from None
    if result["file"]["sha256"] != sha256:
        raise PareError(
            f"{where} measured another file than the one it was given. Nothing of it is used."
        )
    return dict(result)


def plain(text: str) -> str:
    """Return a text of another machine without what would command a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
