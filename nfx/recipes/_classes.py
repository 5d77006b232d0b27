"""Whether images are of the classes that a model knows."""

from collections.abc import Sequence


def class_difference(known: Sequence[str], found: Sequence[str]) -> str:
    """Returns how classes differ from those that a model knows, in words; "" if they do not.

    Args:
        known: What the model calls them, in the order of its logits.
        found: What the images call them, in the order of their labels.
    """
    if len(known) != len(found):
        return f"the model knows {len(known):,} classes, and the images are of {len(found):,}"
    pairs = enumerate(zip(known, found, strict=True))
    return next(
        (
            f"class {number} of the model is {name!r}, and {other!r} in the images"
            for number, (name, other) in pairs
            if name != other
        ),
        "",
    )


def refuse_other_classes(difference: str, data: str) -> None:
    """Raises a `ValueError` if the classes of the images of `data` differ: see above."""
    if difference:
        raise ValueError(
            f"The images in {data!r} are of other classes than the model, or in another order: "
            f"{difference}. Take images of the classes that it was trained on, with their folders "
            "named so that they are in the same order."
        )
