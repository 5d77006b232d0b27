"""Checks of numbers, whose errors name them."""


def at_least(least: int | float, **numbers: int | float | None) -> None:
    """Raises a `ValueError` that names the first of `numbers` that is less than `least`."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise ValueError(f"{name}={number} must be at least {least}.")
