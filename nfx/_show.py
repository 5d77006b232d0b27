"""Numbers and tables as all of nfx shows them."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rich.table import Table


def plain_table(title: str = "", caption: str = "") -> "Table":
    """Makes an empty table for `rich`'s console, an extra that is imported here."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(
        title=title or None,
        caption=caption or None,
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )


def typed_path(path: str | Path) -> str:
    """The path as one would type it into a shell here."""
    path = Path(path)
    return shlex.quote(
        str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    )


def format_bytes(value: int | float) -> str:
    """In binary units: `"1.23 MiB"`."""
    power = min(int(math.log(value, 1024)), 4) if value >= 1024 else 0
    return f"{value / 1024**power:.4g} {['B', 'KiB', 'MiB', 'GiB', 'TiB'][power]}"
