"""How all commands read their arguments."""

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo


Command = TypeVar("Command")

_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """Spells None as recipe files do; Python's spelling is taken too."""
    if info.type is not type(None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        instance_from_str=lambda words: None,
        is_instance=lambda instance: instance is None,
        str_from_instance=lambda instance: ["none"],
        choices=("none", "None"),
    )


def parse(command: type[Command], name: str, arguments: Sequence[str], **how: Any) -> Command:
    """Returns a command with the values of its arguments.

    Args:
        command: A dataclass; its docstrings are what `--help` says.
        name: What the command is called, as "nfx train".
        arguments: What was typed after it.
        how: More for `tyro.cli`.
    """
    with _REGISTRY:
        return tyro.cli(command, prog=name, args=arguments, **how)
