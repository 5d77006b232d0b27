"""What a person sees of a run: live lines on a terminal, plain lines elsewhere."""

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from nfx._show import format_bytes


# What is shown of the metrics, where they are known.
_LEARNING = (
    ("loss", "loss {:.3f}"),
    ("test_accuracy", "test accuracy {:.1%}"),
    ("test_accuracy_raw", "raw {:.1%}"),
    ("learning_rate", "lr {:.3g}"),
    ("gradient_norm", "gradient norm {:.3g}"),
    ("clipped_share", "{:.0%} clipped"),
)
_MACHINE = (
    ("images_per_second", "{:,.0f} images/s"),
    ("milliseconds_per_step", "{:,.0f} ms/step"),
    ("data_wait_share", "{:.0%} waiting for images"),
    ("memory", "{} of memory"),
)

# How long nothing is said where there is no terminal to keep up to date.
_SILENCE_SECONDS = 60.0


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
        self._steps, self._batch_size = steps, batch_size
        self._first: tuple[int, float] | None = None  # where training went on from, and when
        self._said = time.monotonic()
        self._lines = Text()
        self._bar = Progress(
            TextColumn("step {task.fields[shown]}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f}%  {task.description}"),
        )
        self._task = self._bar.add_task("", total=steps, shown=f"0/{steps:,}", visible=False)
        self._live = Live(get_renderable=self._screen, console=self.console, transient=True)

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def say(self, message: str) -> None:
        """Prints a line above the progress."""
        self._said = time.monotonic()
        self.console.print(message, highlight=False, markup=False, soft_wrap=True)

    def timed(self, message: str) -> contextlib.AbstractContextManager[None]:
        """Says above the progress that something long begins, and how long it took."""
        return timed(message, self.say)

    def begin(self, step: int) -> None:
        """Takes note of the step that training goes on from, to tell how long the rest takes."""
        self._first = (step, time.monotonic())
        self._show(step, "")

    def update(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows the state of training at a step.

        Args:
            step: The step.
            metrics: The latest value of each metric, those of the pace among them.
        """
        learning, machine = _words(_LEARNING, metrics), _words(_MACHINE, self._speed(metrics))
        self._lines = Text(f"{learning}\n{machine}")
        left = self._left(step)
        self._show(step, left)
        if not self.console.is_terminal and time.monotonic() - self._said > _SILENCE_SECONDS:
            self.say(f"step {step:>6,}  {learning}  {machine}  {left}")

    def _screen(self) -> Group:
        return Group(self._bar, self._lines)

    def _show(self, step: int, left: str) -> None:
        self._bar.update(
            self._task,
            completed=step,
            description=left,
            shown=f"{step:,}/{self._steps:,}",
            visible=True,
        )

    def _left(self, step: int) -> str:
        """The time left, if the rest goes as what was done here, evaluations and all."""
        first, began = self._first or (step, 0.0)
        if step <= first:
            return ""
        seconds = (time.monotonic() - began) / (step - first) * (self._steps - step)
        return f"{datetime.timedelta(seconds=round(seconds))} left"

    def _speed(self, metrics: Mapping[str, Any]) -> dict[str, float | str]:
        """The pace in the units that are shown."""
        seconds = metrics["seconds_per_step"]
        return {
            "images_per_second": self._batch_size / seconds,
            "milliseconds_per_step": 1000 * seconds,
            "data_wait_share": metrics["data_wait_share"],
            "memory": format_bytes(metrics["memory_bytes"]),
        }


def _words(rows: Sequence[tuple[str, str]], values: Mapping[str, Any]) -> str:
    return "  ".join(form.format(values[name]) for name, form in rows if name in values)
