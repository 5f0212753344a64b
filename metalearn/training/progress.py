"""Progress of a run for a person: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

_FORMAT: Final = {
    "loss": "{:.3f}",
    "validation": "{:.2%}",
    "residual": "{:.0e}",
    "stationarity": "{:.0e}",
    "failed": "{:.1%}",
    "hypergradient_error": "{:.0e}",
}
_LABEL: Final = {
    "residual": "CG residual",
    "failed": "tasks failed",
    "hypergradient_error": "hypergradient's error",
}
# Said only where there is something to say.
_IF_ANY: Final = ("failed",)


def _describe(metrics: dict[str, Any]) -> str:
    known = (
        (name, form)
        for name, form in _FORMAT.items()
        if metrics.get(name) or (name in metrics and name not in _IF_ANY)
    )
    return "  ".join(
        f"{_LABEL.get(name, name)} {form.format(metrics[name])}" for name, form in known
    )


class _Metrics(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_describe(task.fields))


class Display:
    """Shows the latest metrics of a run.

    Args:
        console: console to print to.
        steps: upper steps of the run.
    """

    def __init__(self, console: Console, steps: int) -> None:
        self.console = console
        self._steps = steps
        self._live = console.is_terminal
        self._began = time.monotonic()
        self._before = 0
        self._shown: dict[str, Any] = {}
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            _Metrics(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=steps)

    def start(self, step: int) -> None:
        """These steps were taken before; the time left is estimated from later ones."""
        self._before = step
        self._began = time.monotonic()
        self._bar.update(self._task, completed=step)

    @contextmanager
    def running(self) -> Iterator[Display]:
        """Show the bar for as long as the block runs."""
        with self._bar:
            yield self

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def update(self, step: int, metrics: dict[str, Any]) -> None:
        """Show metrics; those of `validation` in a line of their own where there is no terminal."""
        self._shown |= metrics
        self._bar.update(self._task, completed=step, **self._shown)
        if not self._live and "validation" in metrics:
            spent = time.monotonic() - self._began
            left = spent / (step - self._before) * (self._steps - step)
            self.say(f"step {step}/{self._steps}  {_describe(self._shown)}  left {left:.0f} s")
