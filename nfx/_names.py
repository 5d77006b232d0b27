"""Names that nobody knows, and those that were meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a sentence with the known names nearest to `name`, or with all if none is near."""
    known = list(known)
    longer = [each for each in known if name and each.startswith(name)][:3]
    near = longer or difflib.get_close_matches(name, known, n=3)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    return f"There are: {', '.join(known)}."


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raises a `ValueError` if the value of an argument is none of the choices."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}.")
