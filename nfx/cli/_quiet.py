"""What libraries say that is of no use to whoever runs a command."""

import logging
import sys


# Where Orbax logs errors that it raises as well, from each of the threads that meet them.
_RAISED = ("future.py", "async_checkpointer.py", "checkpoint_manager.py")


def quiet_libraries() -> None:
    """Keeps what Orbax tells its developers, and twice what the Hub tells, off the screen.

    A save that fails is told by `nfx.checkpoint`, once. Errors that are told nowhere else stay.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("absl").addFilter(_is_not_raised)
    logging.getLogger("asyncio").addFilter(_was_waited_for)
    logging.getLogger("huggingface_hub").propagate = False
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _show_unraisable


def _is_not_raised(record: logging.LogRecord) -> bool:
    return not ("orbax" in record.pathname and record.filename in _RAISED)


def _was_waited_for(record: logging.LogRecord) -> bool:
    """Of the writes that fail together one is an error, and nobody asks for those of the others."""
    return "exception was never retrieved" not in record.getMessage()


def _show_unraisable(found: "sys.UnraisableHookArgs") -> None:
    """Shows an error that cannot be raised, but for writes that end when a save has failed."""
    if str(found.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(found)
