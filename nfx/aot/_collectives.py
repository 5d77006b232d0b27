"""What devices tell each other, read off an optimized program's HLO."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple


COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


class Collective(NamedTuple):
    """All collectives of one kind in a program.

    Attributes:
        kind: One of `COLLECTIVES`.
        number: How many there are. One in the body of a loop counts once.
        bytes: Size of what they work on, on one device: of an all-gather the gathered array, of
            a reduce-scatter the array before it is scattered. What goes over the wires depends on
            the algorithm: for rings it is about this, and for an all-reduce twice this.
    """

    kind: str
    number: int
    bytes: int


def collectives(hlo: str) -> tuple[Collective, ...]:
    """Counts the collectives of a program, in the order of `COLLECTIVES`.

    A collective may be in the text more than once: as a start and a done, and on TPUs in each of
    the fusions that it runs beside, which share a chain. It counts once. Channels say nothing:
    all collectives of a `shard_map` have the same. On TPUs a reduce-scatter may be a fusion of an
    all-reduce and a slice; it counts as what it is.

    Args:
        hlo: An optimized program, as `jax.stages.Compiled.as_text` prints it.
    """
    hlo = _REDUCE_SCATTER.sub(lambda of: of[0].replace(" all-reduce(", " reduce-scatter("), hlo)
    found: dict[tuple[str, str], int] = {}
    types: dict[str, str] = {}
    for name, type_, kind, phase, rest in _COLLECTIVE.findall(hlo):
        if phase == "-done":
            continue
        if kind == "reduce-scatter" and not phase and not types:
            types = _types(hlo)
        chain = _CHAIN.search(rest)
        identity = chain[0] if chain else name
        found.setdefault((kind, identity), _size(kind, phase, type_, rest, types))
    totals = []
    for kind in COLLECTIVES:
        sizes = [size for (of, _), size in found.items() if of == kind]
        if sizes:
            totals.append(Collective(kind, len(sizes), sum(sizes)))
    return tuple(totals)


def count_instructions(hlo: str) -> int:
    """Counts the instructions of a program, in all of its computations."""
    return sum(1 for _ in _INSTRUCTION.finditer(hlo))


_INSTRUCTION = re.compile(r"^[ \t]+(?:ROOT )?%?[\w.\-]+ = ", re.MULTILINE)
_TYPED = re.compile(r"^[ \t]+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) [\w\-]+\(", re.MULTILINE)
_COLLECTIVE = re.compile(  # name, type, kind, phase, operands and attributes
    r"^[ \t]+(?:ROOT )?%?([\w.\-]+) = (\S.*?) "
    rf"({'|'.join(COLLECTIVES)})(-start|-done)?\((.*)$",
    re.MULTILINE,
)
_REDUCE_SCATTER = re.compile(  # a TPU's
    r"^%all-reduce-scatter[\w.\-]* \(.*?^\}", re.MULTILINE | re.DOTALL
)
_CHAIN = re.compile(r'chain_id="\d+"')
_ARRAY = re.compile(r"\b(pred|[a-z]+\d\w*)\[([\d,<=]*)\]")
_OPERAND = re.compile(r"%?([\w.\-]+)\s*(?:,|$)")


def _size(kind: str, phase: str, type_: str, rest: str, types: dict[str, str]) -> int:
    """Bytes on one device of the larger side of a collective."""
    if phase and kind != "all-reduce":  # (operands, results, what the runtime keeps)
        operands, results, *_ = _elements(type_)
        return _bytes(operands if kind == "reduce-scatter" else results)
    if kind != "reduce-scatter":
        return _bytes(type_)
    operands = rest[: _closing(rest)]
    names = [] if _ARRAY.search(operands) else _OPERAND.findall(operands)
    return _bytes(operands) + sum(_bytes(types.get(name, "")) for name in names)


def _types(hlo: str) -> dict[str, str]:
    """The type of every instruction by its name."""
    return {found[1]: found[2] for found in _TYPED.finditer(hlo)}


def _elements(type_: str) -> Sequence[str]:
    """The outermost elements of a tuple type."""
    elements, depth, start = [], 0, 1
    for position, character in enumerate(type_):
        depth += (character in "([{") - (character in ")]}")
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            elements.append(type_[start:position])
            start = position + 1
    return elements


def _closing(text: str) -> int:
    """Where the parenthesis closes that opened before `text`."""
    depth = 1
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position
    return len(text)


def _bytes(type_: str) -> int:
    """Bytes of all arrays in a type; of fewer than eight bits a number is packed."""
    return sum(
        math.ceil(_bits(dtype) * math.prod(_sizes(shape)) / 8)
        for dtype, shape in _ARRAY.findall(type_)
    )


def _bits(dtype: str) -> int:
    """Bits of a number: of `bf16` 16, of `f8e4m3fn` 8, of `pred` 8."""
    width = re.match(r"[a-z]+(\d+)", dtype)
    return int(width[1]) if width else 8


def _sizes(shape: str) -> list[int]:
    return [int(size.lstrip("<=")) for size in shape.split(",") if size]
