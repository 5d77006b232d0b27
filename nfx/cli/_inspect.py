"""`nfx inspect`: a table of what can be looked at."""

import importlib
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType


_KINDS: Mapping[str, tuple[str, str]] = MappingProxyType({
    "data":  ("nfx.cli._inspect_data", "images, before training on them"),
    "model": ("nfx.cli._inspect_model", "how the signal goes through a network's depth"),
})  # fmt: skip

_USAGE = (
    "usage: nfx inspect KIND ... [OPTIONS]   (nfx inspect KIND --help lists them)\n\n"
    + "\n".join(f"  {kind:<7} {summary}" for kind, (_, summary) in _KINDS.items())
)


def main(arguments: Sequence[str]) -> int:
    """Looks at what the first argument says."""
    if not arguments or arguments[0] not in _KINDS:
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        print(_USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    return importlib.import_module(_KINDS[arguments[0]][0]).main(arguments[1:])
