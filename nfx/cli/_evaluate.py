"""`nfx evaluate`."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import tyro

from nfx.checkpoint import Which
from nfx.cli._parse import parse
from nfx.cli._refuse import refuse
from nfx.data import BadImage, read_class_names
from nfx.recipes import (
    evaluate,
    evaluate_classifier,
    find_run,
    load_classifier,
    OnSkip,
    SavedRun,
)
from nfx.train import Evaluation
from nfx.weights import pretrained_model


# Options that only weights have, and what is evaluated in words.
_OF_WEIGHTS = ("model", "class_names", "image_size")
_LABELS = {"ema": "averaged parameters", "raw": "raw parameters", "weights": "weights"}


@dataclasses.dataclass(frozen=True)
class EvaluateCommand:
    """Evaluate a run, its parameters as trained and their average, or weights from elsewhere.

    Attributes:
        what: A run directory (or RUN@STEP, RUN@best), weights on the Hugging Face Hub
            (timm/dm_nfnet_f0.dm_in1k), or a file of weights (.safetensors, .npz).
        data: The images whose test images to take (of a folder CLASS/*.jpg every tenth): for a
            run others than its own, of the same classes; for weights there must be some.
        step: Step of a run's checkpoint, or "best" for the best by test accuracy; the latest by
            default.
        mesh: Devices to use, as in training: "fsdp=8" for a state that one has no memory for.
        bad_images: What to do with images that cannot be read; by default as the run did when it
            began, and for weights to raise an error. Those that are skipped do not count.
        model: The name of the model that a file of weights is of: see `nfx models`.
        class_names: A text file with the name of a class on each line, for weights. Where they
            are not known, classes are taken to be in the order of the names of the folders.
        image_size: Side that images are brought to, for weights; the model's test size by default.
        offline: Look for weights in the cache only.
        json: Print JSON.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|WEIGHTS")]
    data: str = ""
    step: Which = None
    mesh: str = "data=all"
    bad_images: Literal["raise", "skip"] | None = None
    model: str | None = None
    class_names: str | None = None
    image_size: int | None = None
    offline: bool = False
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and evaluates."""
    command = parse(EvaluateCommand, "nfx evaluate", arguments)
    skipped: list[BadImage] = []

    def take(split: str, count: int, bad: BadImage) -> None:
        skipped.append(bad)

    run = find_run(command.what)
    evaluations = _of_run(run, command, take) if run else _of_weights(command, take)
    if skipped:
        print(
            f"nfx: {len(skipped):,} images cannot be used and do not count; the first is "
            f"{skipped[0].name!r}: {skipped[0].reason}",
            file=sys.stderr,
        )
    show = _as_json if command.json else _as_text
    print(show(evaluations))
    return 0


def _of_run(run: SavedRun, command: EvaluateCommand, on_skip: OnSkip) -> Mapping[str, Evaluation]:
    refuse(command, _OF_WEIGHTS, "A run knows its model, its classes and its images")
    evaluation = evaluate(
        run.path,
        data=command.data,
        step=run.at(command.step),
        mesh=command.mesh,
        bad_images=command.bad_images,
        on_skip=on_skip,
    )
    return {"ema": evaluation.ema, "raw": evaluation.raw}


def _of_weights(command: EvaluateCommand, on_skip: OnSkip) -> Mapping[str, Evaluation]:
    refuse(command, ("step",), f"{command.what!r} is no run directory, and weights have no steps")
    pretrained_model(command.what, command.model)  # what is mistyped is not said to know no images
    if not command.data:
        raise ValueError(
            f"Weights as {command.what!r} know no images: give some by --data DIR, with "
            "test/CLASS/*.jpg in it."
        )
    classifier = load_classifier(
        command.what,
        model=command.model,
        class_names=read_class_names(command.class_names),
        image_size=command.image_size,
        offline=command.offline,
    )
    evaluation = evaluate_classifier(
        classifier,
        command.data,
        mesh=command.mesh,
        bad_images=command.bad_images or "raise",
        on_skip=on_skip,
    )
    return {"weights": evaluation}


def _as_json(evaluations: Mapping[str, Evaluation]) -> str:
    return json.dumps({name: part._asdict() for name, part in evaluations.items()})


def _as_text(evaluations: Mapping[str, Evaluation]) -> str:
    examples = next(iter(evaluations.values())).examples
    return "\n".join([
        f"{examples:,} images of the test set, each seen once:",
        *(
            f"  {_LABELS[name]}:  accuracy {part.accuracy:.2%}  loss {part.loss:.4f}"
            for name, part in evaluations.items()
        ),
    ])  # fmt: skip
