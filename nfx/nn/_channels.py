"""Rounding of channel counts."""


def round_channels(channels: int | float, multiple: int = 1, *, least_share: float = 0.0) -> int:
    """Rounds a number of channels to a positive multiple.

    A multiple of 1 truncates, as the official code; a larger one rounds to the nearest, as
    timm's `make_divisible`.

    Args:
        channels: What to round.
        multiple: What the result is a multiple of.
        least_share: The result is one multiple more if it would be less than this share of
            `channels`.
    """
    if multiple == 1:
        return max(1, int(channels))
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < least_share * channels else rounded
