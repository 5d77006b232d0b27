"""The tables and pictures of a report, as HTML."""

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np

from nfx.data import BadImage
from nfx.recipes._contact_sheet import picture_of
from nfx.recipes._report._findings import Mistake
from nfx.recipes._report._html import Html, join, tag
from nfx.recipes._report._troubles import Troubles


# So many classes have a matrix; of more, the pairs that are confused most are listed.
MOST_CLASSES = 50

_LISTED = 25

# Images of a step that was not finite.
_NAMED = 5

# Pictures up to this side, in pixels, are kept to the pixel.
_EXACT_SIDE = 64

# Of cells: on the diagonal and beside it.
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """Makes a table that scrolls where it is wider than the page."""
    header = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    body = (tag("tr", *(tag("td", cell) for cell in row)) for row in rows)
    return tag("div", tag("table", header, tag("tbody", *body)), class_="scroll")


def facts(rows: Iterable[tuple[str, object]]) -> Html:
    """Makes a list of names and what they stand for."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in rows))


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Html:
    """Shows how many images of each class, in rows, are taken for which.

    A cell's color is its share of the row, by its root so that rare mistakes are seen.

    Args:
        counts: See `nfx.train.Outcomes.confusion`.
        class_names: Names of the classes.
    """
    head = tag(
        "tr", tag("td"), *(tag("th", tag("span", name), scope="col") for name in class_names)
    )
    rows = [
        tag(
            "tr",
            tag("th", class_names[row], scope="row"),
            *(
                _cell(
                    count,
                    sum(row_counts),
                    right=row == column,
                    words=f"{class_names[row]} → {name}",
                )
                for column, (count, name) in enumerate(zip(row_counts, class_names, strict=True))
            ),
        )
        for row, row_counts in enumerate(counts.tolist())
    ]
    size = "confusion large" if len(class_names) > 20 else "confusion"
    matrix = tag("table", tag("thead", head), tag("tbody", *rows), class_=size)
    return tag("div", matrix, class_="scroll")


def _cell(count: int, total: int, *, right: bool, words: str) -> Html:
    if not count:
        return tag("td")
    depth = (count / total) ** 0.5
    color = [round(255 + depth * (full - 255)) for full in (_RIGHT if right else _WRONG)]
    style = f"background:rgb({color[0]},{color[1]},{color[2]})"
    if depth > 0.6:
        style += ";color:#fff"
    return tag("td", count, style=style, title=f"{words}: {count} of {total}")


def confused_pairs(counts: np.ndarray, class_names: Sequence[str]) -> Html:
    """Lists the pairs of classes of which most images of one are taken for the other."""
    mistakes = counts - np.diag(np.diag(counts))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:_LISTED]
    pairs = [divmod(int(place), len(counts)) for place in order]
    return table(
        ("class", "taken for", "images", "of"),
        (
            (class_names[row], class_names[column], mistakes[row, column], counts[row].sum())
            for row, column in pairs
            if mistakes[row, column]
        ),
    )


def class_table(counts: np.ndarray, class_names: Sequence[str]) -> Html:
    """Lists the classes with the share of their images that is right, the worst first."""
    total = counts.sum(axis=1)
    share = np.diag(counts) / np.maximum(total, 1)
    listed = [int(row) for row in np.argsort(share, kind="stable") if total[row]]
    listed = listed if len(class_names) <= MOST_CLASSES else listed[:_LISTED]
    return table(
        ("class", "images", "right", "most often taken for"),
        (
            (class_names[row], total[row], _bar(share[row]), _taken_for(counts, row, class_names))
            for row in listed
        ),
    )


def _taken_for(counts: np.ndarray, row: int, class_names: Sequence[str]) -> str:
    others = counts[row].copy()
    others[row] = 0
    worst = int(np.argmax(others))
    return f"{class_names[worst]} ({others[worst]})" if others[worst] else ""


def _bar(share: float) -> Html:
    filled = tag("span", style=f"width:{100 * share:.1f}%")
    return tag("span", tag("span", filled, class_="bar"), f" {share:.1%}", class_="share")


def mistake_pictures(mistakes: Sequence[Mistake], class_names: Sequence[str]) -> Html:
    """Shows images with what they are, what they are taken for and what they are called."""
    return tag("div", *(_picture(mistake, class_names) for mistake in mistakes), class_="pictures")


def _picture(mistake: Mistake, class_names: Sequence[str]) -> Html:
    label, predicted = class_names[mistake.label], class_names[mistake.predicted]
    caption = tag(
        "figcaption",
        tag("b", label),
        tag("span", f"taken for {predicted}, {mistake.probability:.0%}", class_="wrong"),
        tag("small", f"loss {mistake.loss:.2f}"),
        tag("small", mistake.name, class_="name"),
    )
    image = tag(
        "img", src=_data_uri(mistake.pixels), alt=f"{label} taken for {predicted}", loading="lazy"
    )
    return tag("figure", image, caption)


def _data_uri(pixels: np.ndarray) -> str:
    """A picture as its own address."""
    exact = max(pixels.shape[:2]) <= _EXACT_SIDE
    kind, options = ("png", {"optimize": True}) if exact else ("jpeg", {"quality": 85})
    file = io.BytesIO()
    picture = picture_of(pixels)
    if not exact:
        picture.thumbnail((192, 192))
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def troubles_list(troubles: Troubles, skipped: Sequence[BadImage]) -> Html:
    """Lists what went wrong.

    Args:
        troubles: In the run.
        skipped: Test images that the report could not use, beside those.
    """
    bad = [(each["split"], each["name"], each["reason"]) for each in troubles.bad_images]
    bad += [("test", each.name, each.reason) for each in skipped]
    steps = [(each["step"], _some(each["images"]), each["left_out"]) for each in troubles.nonfinite]
    parts = [
        join(tag("h3", f"{words}: {len(rows):,}"), table(head, rows[:_LISTED]))
        for rows, words, head in (
            (bad, "Images that cannot be used", ("split", "image", "why")),
            (steps, "Steps that were not finite", ("step", "its images", "left out")),
            ([(name,) for name in troubles.hangs], "Hangs", ("stacks of all threads",)),
            ([(name,) for name in troubles.damaged], "Damaged checkpoints", ("which",)),
        )
        if rows
    ]
    nothing = "Nothing: no bad images, steps that were not finite, hangs or damaged checkpoints."
    return join(*parts) if parts else tag("p", nothing)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
