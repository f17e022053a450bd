"""Says how a search goes: a live table on a terminal, a line an event elsewhere, or JSON."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.core.epoch import Epoch
from pipeline.search.engine import Watcher
from pipeline.search.trial import Outcome, Trial


class Quiet:
    """Says nothing."""

    def began(self, trial: Trial) -> None:
        """Say nothing."""

    def epoch(self, trial: Trial, epoch: Epoch, total: int) -> None:
        """Say nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Say nothing."""


class Json:
    """Prints an object a line for each event, for scripts."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def began(self, trial: Trial) -> None:
        """Print that a trial has begun."""
        self._say("began", trial=trial.name, settings=trial.settings)

    def epoch(self, trial: Trial, epoch: Epoch, total: int) -> None:
        """Print what an epoch reached."""
        self._say("epoch", trial=trial.name, total=total, **epoch.model_dump())

    def ended(self, outcome: Outcome) -> None:
        """Print what became of a trial."""
        self._say("ended", **outcome.model_dump(mode="json"))

    def _say(self, event: str, **values: Any) -> None:
        self._write(json.dumps({"event": event, **values}))


class Board:
    """What runs, what has ended, what is best so far, how long it will take."""

    def __init__(
        self,
        console: Console,
        planned: int | None,
        workers: int,
        best: Callable[[Mapping[str, Outcome]], list[str]],
    ) -> None:
        """Take what is shown.

        Args:
            console: to print on.
            planned: trials in all, where that is known.
            workers: trials at a time.
            best: what is best so far, as lines of text, from the outcomes.
        """
        self._console, self._best = console, best
        self._planned, self._workers = planned, max(1, workers)
        self._running: dict[str, str] = {}
        self._ended: dict[str, Outcome] = {}
        self._fresh: list[float] = []
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live = Live(self._table(), console=self._console, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def began(self, trial: Trial) -> None:
        """Show a trial among those that run."""
        self._running[trial.name] = "begun"
        self._show(f"began    {trial.name}")

    def epoch(self, trial: Trial, epoch: Epoch, total: int) -> None:
        """Show how far a training is."""
        self._running[trial.name] = (
            f"epoch {epoch.epoch}/{total}  validation {epoch.accuracy:.1%}"
        )
        self._show(None)

    def ended(self, outcome: Outcome) -> None:
        """Move a trial to those that have ended."""
        new = self._running.pop(outcome.trial, None) is not None
        self._ended[outcome.trial] = outcome
        if new:
            self._fresh.append(outcome.seconds)
        said = told(outcome) if new else "was finished before"
        self._show(f"{outcome.state:<8} {outcome.trial}  {said}")

    def _show(self, line: str | None) -> None:
        if self._live:
            self._live.update(self._table())
        elif line:
            self._console.print(f"{self._counted():<12} {escape(line)}", soft_wrap=True)

    def _counted(self) -> str:
        return f"{len(self._ended)}" + (f"/{self._planned}" if self._planned else "")

    def _table(self) -> RenderableType:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, text in self._running.items():
            table.add_row(f"[bold]{escape(name)}[/]", text)
        best = [Text(line) for line in self._best(self._ended)]
        return Group(Text(self.summary(), style="dim"), table, *best)

    def summary(self) -> str:
        """Return the counts, the time that has passed, and about how much is left."""
        states = Counter(outcome.state for outcome in self._ended.values())
        parts = [f"{len(self._running)} running"]
        parts += [f"{states[name]} {name}" for name in ("finished", "stopped", "failed")]
        parts += [f"{self._planned} planned"] if self._planned else []
        parts.append(f"{_clock(time.monotonic() - self._began)} passed")
        if (left := self._left()) is not None:
            parts.append(f"about {_clock(left)} left")
        return ", ".join(parts)

    def _left(self) -> float | None:
        """Return the seconds that the rest takes if it is like what has ended."""
        if not self._fresh or self._planned is None:
            return None
        open_ = max(0, self._planned - len(self._ended))
        return open_ * sum(self._fresh) / len(self._fresh) / self._workers


@contextmanager
def watching(
    board: Board, write: Callable[[str], object], *, quiet: bool, as_json: bool
) -> Iterator[Watcher]:
    """Yield who is told what happens: lines of JSON, nobody, or the board.

    Args:
        board: shown while it is watched.
        write: takes a line of JSON.
        quiet: say nothing.
        as_json: say it for scripts.
    """
    if as_json:
        yield Json(write)
    elif quiet:
        yield Quiet()
    else:
        with board as shown:
            yield shown


def told(outcome: Outcome) -> str:
    """Say in a line what a trial reached, or why it did not."""
    if outcome.state != "finished":
        return outcome.why.partition("\n")[0]
    figures = outcome.figures
    parts = []
    if "accuracy" in figures:
        parts.append(f"top-1 {figures['accuracy']:.2%}")
    if "parameters" in figures:
        parts.append(f"{figures['parameters']:,} parameters")
    if outcome.shared:
        parts.append(f"{', '.join(outcome.shared)} taken over")
    return f"{', '.join(parts)} ({outcome.seconds:.0f} s)"


def _clock(seconds: float) -> str:
    """Write a duration.

    >>> _clock(5), _clock(65), _clock(4000)
    ('5 s', '1 min 05 s', '1 h 06 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
