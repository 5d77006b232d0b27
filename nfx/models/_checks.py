"""What is wrong with the fields of a variant."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args, get_origin, Literal


def check_fields(variant: Any, rules: Mapping[str, bool]) -> None:
    """Raises a `ValueError` that lists what is wrong with the fields of a dataclass.

    Args:
        variant: The dataclass; its fields of a `Literal` type have to be one of the choices.
        rules: What has to hold, by what is said if it does not.
    """
    choices = {
        f"{field.name}={getattr(variant, field.name)!r} must be one of "
        f"{', '.join(map(repr, get_args(field.type)))}": getattr(variant, field.name)
        in get_args(field.type)
        for field in fields(variant)
        if get_origin(field.type) is Literal
    }
    problems = [problem for problem, holds in (choices | dict(rules)).items() if not holds]
    if problems:
        raise ValueError(f"{'; '.join(problems)}.")
