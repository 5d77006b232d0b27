"""HTML in which every text is escaped, unless it is HTML itself."""

import html


# Elements that have no content and no end.
_VOID = frozenset({"img", "meta"})


class Html(str):
    """Text that is HTML already. Any other text is escaped when it becomes part of it."""

    __slots__ = ()


def join(*content: object) -> Html:
    """Puts pieces one after the other; what no encoding can write is written as a backslash has it.

    Args:
        content: HTML, or anything else as text.
    """
    pieces = (piece if isinstance(piece, Html) else html.escape(str(piece)) for piece in content)
    return Html("".join(pieces).encode("utf-8", "backslashreplace").decode())


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """Makes an element.

    Args:
        name: Of the element.
        content: What is in it: see `join`.
        attributes: By name, with an underscore after those that Python reserves, as `class_`.
    """
    written = join(
        *(Html(f' {key.rstrip("_")}="{join(str(value))}"') for key, value in attributes.items())
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*content)}</{name}>")
