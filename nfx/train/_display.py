"""What a person sees of a run: a live line on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def timed(message: str, say: Callable[[str], object]) -> Iterator[None]:
    """Says that something long begins, and how long it took."""
    say(f"{message} ...")
    began = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - began:.1f} s")


class Display:
    """Shows the progress of training. Use it as a context manager."""

    def __init__(
        self,
        steps: int,
        batch_size: int,
        console: Console | None = None,
        *,
        quiet: bool = False,
    ):
        """Prepares a display.

        Args:
            steps: Steps in all.
            batch_size: Images a step, to tell images a second.
            console: Where to show, standard output by default.
            quiet: Show nothing: of several processes one does.
        """
        self.console = console or Console(quiet=quiet)
        self._batch_size = batch_size
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps)

    def __enter__(self) -> "Display":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def say(self, message: str) -> None:
        """Prints a line above the progress."""
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def timed(self, message: str) -> contextlib.AbstractContextManager[None]:
        """Says above the progress that something long begins, and how long it took."""
        return timed(message, self.say)

    def update(self, step: int, metrics: Mapping[str, Any], seconds_per_step: float) -> None:
        """Shows the state of training at a step."""
        shown = [f"{self._batch_size / seconds_per_step:.0f} images/s"]
        shown += [
            f"{label} {format(metrics[name], form)}"
            for name, label, form in (
                ("loss", "loss", ".3f"),
                ("learning_rate", "lr", ".3g"),
                ("clipped_share", "clipped", ".0%"),
            )
            if name in metrics
        ]
        self._progress.update(self._task, completed=step, description="  ".join(shown))
