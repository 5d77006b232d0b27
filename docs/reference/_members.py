"""What the reference shows of the public packages, where their docstrings do not say it.

The package griffe-public-redundant-aliases makes public what an `__init__` re-exports.
"""

from itertools import takewhile
from typing import Any

import griffe


class Members(griffe.Extension):
    """Constants are described by the comments above them, classes by what has a docstring.

    It comes after griffe's own extension, which makes signatures of the fields of dataclasses.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Changes what a package has."""
        for module in _modules(pkg):
            own = {name: part for name, part in module.members.items() if not part.is_alias}
            for name, member in own.items():
                if name.startswith("__"):
                    del module.members[name]
                elif member.is_attribute and not member.docstring:
                    member.docstring = _comment_above(member)
                elif member.is_class:
                    _keep_described(member)


def _modules(module: griffe.Module) -> list[griffe.Module]:
    """Returns a module and those below it."""
    below = [_modules(part) for part in module.modules.values() if not part.is_alias]
    return [module, *(part for parts in below for part in parts)]


def _comment_above(constant: griffe.Attribute) -> griffe.Docstring | None:
    lines = constant.lines_collection[constant.filepath][: (constant.lineno or 1) - 1]
    comment = [*takewhile(lambda line: line.startswith("#"), reversed(lines))][::-1]
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return griffe.Docstring(text, parent=constant) if comment else None


def _keep_described(class_: griffe.Class) -> None:
    """Leaves out methods without a docstring, and fields that the class's or a signature has."""
    text = class_.docstring.value if class_.docstring else ""
    names_fields = "Attributes:" in text or "__init__" in class_.members
    for name, member in list(class_.members.items()):
        kept = member.is_alias or member.has_docstring or name == "__init__"
        is_field = member.is_attribute and not name.startswith("_") and name != "unit_axes"
        if name == "__post_init__" or not (kept or (is_field and not names_fields)):
            del class_.members[name]
