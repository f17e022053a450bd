"""Says on a terminal what a run does."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipeline.core.epoch import Epoch


def console() -> Console:
    """Return the terminal; a file or a pipe is given room for the tables."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=120)


class Terminal:
    """A line per stage, and a bar for the training."""

    def __init__(self, shown_on: Console | None = None) -> None:
        self.console = shown_on or console()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def stage(self, number: int, name: str, text: str, seconds: float | None) -> None:
        """Print what a stage did and how long it took."""
        self.close()
        took = "skipped" if seconds is None else f"{seconds:.1f} s"
        self.console.print(
            f"[bold]{number} {name:<9}[/] [dim]{took:>8}[/]  {escape(text)}", soft_wrap=True
        )

    def progress(self, done: int, total: int, epoch: Epoch) -> None:
        """Move the training's bar."""
        pruned = epoch.pruned_accuracy
        text = f"loss {epoch.task_loss:.3f}  validation {epoch.accuracy:.1%}" + (
            "" if pruned is None else f"  pruned {pruned:.1%}"
        )
        if self._bar is None:
            self._bar = Progress(
                TextColumn("  training"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total} epochs  {task.description}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task(text, total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, description=text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.close()
        self.console.print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)

    def close(self) -> None:
        """Take the bar away, so that what comes next starts on a line of its own."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
