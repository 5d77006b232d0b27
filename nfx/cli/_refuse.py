"""Options that do not apply to what the command was given, or that would fail at its end."""

import os
from collections.abc import Sequence
from pathlib import Path


def refuse(command: object, options: Sequence[str], reason: str) -> None:
    """Raises a `ValueError` if an option is given that must be left out.

    Args:
        command: The parsed command.
        options: Names of attributes of it that are None if they are not given.
        reason: Why, as the beginning of a sentence.
    """
    for option in options:
        if getattr(command, option) is not None:
            raise ValueError(f"{reason}: leave --{option.replace('_', '-')} out.")


def check_picture(path: str, option: str, suffixes: Sequence[str] = (".png",)) -> None:
    """Raises a `ValueError` if no picture can be written there.

    Args:
        path: Where.
        option: Of which option it is the value.
        suffixes: What its name may end in.
    """
    file = Path(path).absolute()
    if file.suffix.lower() not in suffixes or not os.access(file.parent, os.W_OK):
        raise ValueError(
            f"{option} {path}: give a file in a directory that can be written, whose name ends in "
            f"{' or '.join(suffixes)}."
        )
