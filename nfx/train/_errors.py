"""What training raises."""

import signal


class RunDirectoryError(Exception):
    """A run directory that is missing, taken, damaged, of another run, or not to be written."""


class TrainingError(Exception):
    """Training that cannot go on."""


class NotFiniteError(TrainingError):
    """A step whose loss, gradient or update is not finite.

    Attributes:
        step: Which, from 1.
        images: What is known of its images, as a sentence without its full stop.
    """

    def __init__(self, step: int, values: str, images: str = ""):
        """Takes which step, its metrics, and what is known of its images."""
        super().__init__(step, values, images)
        self.step, self.values, self.images = step, values, images

    def __str__(self) -> str:
        """What it was, and what to do."""
        images = f"{self.images}. " if self.images else ""
        return (
            f"Training diverged: at step {self.step} the metrics were {self.values}, and were "
            f"expected to be finite. {images}Nothing was saved since the last checkpoint. Lower "
            "the learning rate, clip harder or warm up for longer, and start again."
        )


class TrainingStopped(Exception):  # noqa: N818 (it went well)
    """A run that a signal has stopped, after a checkpoint.

    Attributes:
        exit_code: What the process is to end with: 128 and the number of the signal.
    """

    def __init__(self, message: str, received: signal.Signals):
        """Takes what to say, and which signal it was."""
        super().__init__(message)
        self.exit_code = exit_code(received)


def exit_code(received: signal.Signals) -> int:
    """Returns what a process ends with that a signal has stopped, as shells count."""
    return 128 + received.value
