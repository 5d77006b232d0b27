"""Names of classes, one on each line of a file."""

from pathlib import Path


def read_class_names(path: str | Path | None) -> list[str] | None:
    """Reads the name of a class from each line, or nothing where there is no file.

    Raises:
        ValueError: If the file cannot be read.
    """
    if path is None:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Cannot read the names of the classes: {error}") from error
