"""Options that say nothing about what they are given with."""

from collections.abc import Sequence


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
