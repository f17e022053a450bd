"""One run of a search: what is asked for, and what became of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from pipeline.core.recipe import Recipe
from pipeline.core.record import Record

State = Literal["finished", "stopped", "failed"]


class Trial(Record):
    """An ordinary run that a search asks for.

    Attributes:
        name: also of its folder.
        settings: what differs from the recipe of the search, by dotted key.
        recipe: the whole of it.
        until: name of its last stage; all of them and the report where there is none.
        after: trials that have to be finished before it may begin.
        goes_on: name of the trial whose network it makes files of.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,-]*$")
    settings: dict[str, Any]
    recipe: Recipe
    until: str | None = None
    after: tuple[str, ...] = ()
    goes_on: str | None = None


class Outcome(Record):
    """What became of a trial.

    Attributes:
        key: of its last stage; with another key it is of another trial.
        state: ``stopped`` where others of its kind were ahead after as many epochs.
        why: of a trial that failed or was stopped.
        seconds: it took this time, what was skipped not counted.
        executed: stages that really ran.
        shared: stages that were taken over from other runs of the search.
        warnings: what its run said beside its result.
        figures: what it reached, by name; a figure that is not known is missing.
    """

    trial: str
    key: str
    state: State
    why: str = ""
    seconds: float
    executed: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: dict[str, Any] = Field(default_factory=dict)
