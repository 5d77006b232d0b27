"""Looking at options before they are parsed, as some decide what the defaults of others are."""

import argparse
from collections.abc import Sequence


def peek(
    arguments: Sequence[str], *options: Sequence[str], flags: Sequence[str] = ()
) -> argparse.Namespace:
    """Returns the values of some options, "" where they are not given.

    Args:
        arguments: The arguments of a command.
        options: The spellings of each option.
        flags: Options without a value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for spellings in options:
        parser.add_argument(*spellings, default="", nargs="?", const="")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    return parser.parse_known_args(arguments)[0]
