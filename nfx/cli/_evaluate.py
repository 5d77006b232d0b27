"""`nfx evaluate`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from nfx.data import BadImage
from nfx.recipes import evaluate


@dataclasses.dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a run: its parameters as trained, and their average.

    Attributes:
        run: The run directory.
        data: Other images, of the same classes, whose test images to take.
        step: Step of the checkpoint, or "best" for the best by test accuracy; the latest by
            default.
        mesh: Devices to use, as in training: "fsdp=8" for a state that one has no memory for.
        bad_images: What to do with images that cannot be read; as the run did when it began, by
            default. Those that are skipped do not count.
        json: Print JSON.
    """

    run: Annotated[str, tyro.conf.Positional]
    data: str = ""
    step: int | Literal["best"] | None = None
    mesh: str = "data=all"
    bad_images: Literal["raise", "skip"] | None = None
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and evaluates."""
    command = tyro.cli(EvaluateCommand, prog="nfx evaluate", args=arguments)
    skipped: list[BadImage] = []
    evaluation = evaluate(
        command.run,
        data=command.data,
        step=command.step,
        mesh=command.mesh,
        bad_images=command.bad_images,
        on_skip=lambda split, count, bad: skipped.append(bad),
    )
    if skipped:
        print(
            f"nfx: {len(skipped):,} images cannot be used and do not count; the first is "
            f"{skipped[0].name!r}: {skipped[0].reason}",
            file=sys.stderr,
        )
    if command.json:
        print(json.dumps({name: part._asdict() for name, part in evaluation._asdict().items()}))
        return 0
    print(f"{evaluation.ema.examples:,} images of the test set, each seen once:")
    for label, part in (("averaged", evaluation.ema), ("raw", evaluation.raw)):
        print(f"  {label} parameters:  accuracy {part.accuracy:.2%}  loss {part.loss:.4f}")
    return 0
