"""The sizes of files and functions of nfx, beside those of libraries that it is compared with.

    python benchmarks/source.py                      # of nfx
    python benchmarks/source.py nfx ~/src/optimistix/optimistix

To look at, not to aim at. A function's lines are all that it has, with signature and docstring.
"""

import argparse
import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from _measure import markdown


# Counted in the same way, from snapshots of 2025 and 2026: files, lines, the median file; median
# and 90th percentile of functions.
OTHERS = {
    "equinox": (72, "16.0k", 133, 7, 40),
    "optimistix": (34, "7.6k", 206, 9, 50),
    "optax": (131, "", 192, "", ""),
    "bonsai": ("", "", 91, 12, 40),
    "kauldron": (360, "", 114, 7, 30),
}

HEADER = ["", "files", "lines", "median file", "median function", "90th percentile"]
LARGEST = ["longest files", "longest functions", "most parameters"]


class Function(NamedTuple):
    """A function of a package.

    Attributes:
        lines: From its first decorator to its last line.
        parameters: How many, of any kind, but `self` and `cls`.
        place: File, line and name.
    """

    lines: int
    parameters: int
    place: str


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", nargs="*", type=Path, default=[Path("nfx")])
    parser.add_argument("--largest", type=int, default=5, help="how many of each kind to name")
    given = parser.parse_args()
    counted = {package.name: count(package) for package in given.package}
    rows = [[name, *numbers(*each)] for name, each in counted.items()]
    print(markdown(HEADER, [*rows, *([name, *row] for name, row in OTHERS.items())]))
    for name, each in counted.items():
        print(f"\n{name}\n\n{markdown(LARGEST, largest(*each, given.largest))}")


def largest(files: dict[Path, int], functions: list[Function], number: int) -> list[list[str]]:
    """The rows of a table of the largest of each kind."""
    columns = (
        [(lines, path) for path, lines in files.items()],
        [(function.lines, function.place) for function in functions],
        [(function.parameters, function.place) for function in functions],
    )
    return [
        [f"{size} {place}" for size, place in row]
        for row in zip(*(sorted(column)[: -number - 1 : -1] for column in columns), strict=True)
    ]


def count(package: Path) -> tuple[dict[Path, int], list[Function]]:
    """Counts the lines of a package's files, and lists its functions."""
    texts = {path: path.read_text() for path in sorted(package.rglob("*.py"))}
    if not texts:
        raise SystemExit(f"There is no Python in {str(package)!r}: give the folder of a package.")
    files = {path: len(text.splitlines()) for path, text in texts.items()}
    return files, [each for path, text in texts.items() for each in functions_of(path, text)]


def functions_of(path: Path, text: str) -> Iterator[Function]:
    """The functions in a file, those inside of others too."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        arguments = node.args
        names = [
            each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        ]
        parameters = len([name for name in names if name not in ("self", "cls")])
        parameters += (arguments.vararg is not None) + (arguments.kwarg is not None)
        place = f"{path}:{node.lineno} {node.name}"
        yield Function(node.end_lineno - first + 1, parameters, place)


def numbers(files: dict[Path, int], functions: list[Function]) -> list[object]:
    """A row of the table."""
    lines = [function.lines for function in functions]
    total = sum(files.values())
    return [
        len(files),
        f"{total / 1e3:.1f}k",
        f"{median(files.values()):.0f}",
        f"{median(lines):.0f}",
        f"{quantiles(lines, n=10)[-1]:.0f}",
    ]


if __name__ == "__main__":
    main()
