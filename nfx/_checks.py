"""Numbers that are too small."""


def at_least(least: float, **numbers: float | None) -> None:
    """Raises a `ValueError` if one of some arguments, which are named, is less than it may be.

    None is not looked at: the argument is not given.
    """
    for name, value in numbers.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name}={value} must be at least {least}.")
