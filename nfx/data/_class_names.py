"""Names of classes, and of those that have none."""

import functools
from pathlib import Path


@functools.cache
def class_numbers(count: int) -> tuple[str, ...]:
    """Returns what classes are called whose names nobody knows."""
    return tuple(map(str, range(count)))


def label_problem(label: int, num_classes: int) -> str:
    """Returns why a label is of none of so many classes, and what to do; "" if it is of one."""
    if 0 <= label < num_classes:
        return ""
    return (
        f"with {num_classes} classes labels go from 0 to {num_classes - 1}. Number the classes "
        "from 0, or raise the number of classes."
    )


def read_class_names(path: str | Path | None) -> list[str] | None:
    """Reads the name of a class from each line, or nothing where there is no file.

    Blank lines at the end are no classes.

    Raises:
        ValueError: If the file cannot be read, has no names, or a blank line before the last.
    """
    if path is None:
        return None
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the names of the classes: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if not lines:
        raise ValueError(f"{str(path)!r} is empty. Expected the name of a class on each line.")
    if blank:
        raise ValueError(
            f"Line {blank} of {str(path)!r} is blank, and each is the name of a class: fill it in, "
            "or take it out."
        )
    return lines
