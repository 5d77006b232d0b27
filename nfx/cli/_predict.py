"""`nfx predict`."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import track

from nfx.cli._parse import parse
from nfx.cli._refuse import refuse
from nfx.data import list_images, read_class_names
from nfx.serving import is_artifact, load_artifact, predict_images, Prediction


@dataclasses.dataclass(frozen=True)
class PredictCommand:
    """Name the most probable classes of images.

    What is no image is named too, on standard error, and makes the exit code 1.

    Attributes:
        what: A run directory (RUN, RUN@STEP, RUN@best), an artifact of `nfx export`, weights on
            the Hugging Face Hub (timm/dm_nfnet_f0.dm_in1k), or a file of weights (.safetensors,
            .npz).
        images: Files, and folders with all the images below them.
        model: The name of the model that a file of weights is of: see `nfx models`.
        top: How many classes to name.
        class_names: A text file with the name of a class on each line, for weights.
        image_size: Side that images are brought to; by default the run's or the model's.
        batch_size: Images at a time.
        offline: Look for weights in the cache only.
        mesh: Devices to use, as in training, but for artifacts; the images of a batch are split
            over all of them by default.
        json: Print JSON: one line an image.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|ARTIFACT|WEIGHTS")]
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    model: str | None = None
    top: int = 5
    class_names: str | None = None
    image_size: int | None = None
    batch_size: int = 32
    offline: bool = False
    mesh: str = "data=all"
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and predicts."""
    command = parse(PredictCommand, "nfx predict", arguments)
    if not command.images:
        raise ValueError("Which images? Give files or folders after the model.")
    files = list_images(command.images)
    by = _by_artifact if is_artifact(command.what) else _by_model
    show = _as_json if command.json else _as_text
    console, bad = Console(stderr=True), 0
    for prediction in track(
        by(command, files), "Images", total=len(files), console=console, transient=True,
        disable=not console.is_terminal,
    ):  # fmt: skip
        if prediction.problem:
            bad += 1
            problem = f"Cannot read {str(prediction.file)!r} as an image: {prediction.problem}"
            print(f"nfx: {problem}", file=sys.stderr)
        if command.json or not prediction.problem:
            print(show(prediction), flush=True)
    return 1 if bad else 0


def _by_artifact(command: PredictCommand, files: list[Path]) -> Iterator[Prediction]:
    known = ("model", "class_names", "image_size")
    refuse(command, known, "An artifact knows its model, its classes and the size of its images")
    artifact = load_artifact(command.what)
    return predict_images(artifact, files, top=command.top, batch_size=command.batch_size)


def _by_model(command: PredictCommand, files: list[Path]) -> Iterator[Prediction]:
    # Imports the models, which an artifact does without.
    from nfx.recipes import load_classifier, predict

    classifier = load_classifier(
        command.what,
        model=command.model,
        class_names=read_class_names(command.class_names),
        image_size=command.image_size,
        offline=command.offline,
    )
    return predict(
        classifier, files, top=command.top, batch_size=command.batch_size, mesh=command.mesh
    )


def _as_json(prediction: Prediction) -> str:
    classes = [score._asdict() for score in prediction.classes]
    problem = {"problem": prediction.problem} if prediction.problem else {}
    return json.dumps({"file": str(prediction.file), "classes": classes, **problem})


def _as_text(prediction: Prediction) -> str:
    lines = [f"{score.probability:7.1%}  {score.name}" for score in prediction.classes]
    return "\n".join([str(prediction.file), *lines])
