"""Exporting a trained network."""

from collections.abc import Sequence
from pathlib import Path

from nfx.aot import export_classifier, ExportOptions
from nfx.models import MODELS
from nfx.recipes._classifier import Classifier, load_classifier, random_classifier
from nfx.serving import check_destination, save_artifact


def export(
    what: str | Path,
    output: str | Path = "",
    *,
    model: str | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | None = None,
    random: bool = False,
    options: ExportOptions = ExportOptions(),
    offline: bool = False,
) -> Path:
    """Writes a classifier as an artifact, which runs without the code of its model.

    Args:
        what: See `load_classifier`; or with `random`, the name of a model.
        output: Where to write, a name that ends in `.nfx`; by default it follows from `what`,
            in the current directory.
        model: The model's name, for a file of weights.
        class_names: Names of the classes, for weights that do not come with them.
        image_size: Side of the images; by default what the run was trained on, or the model's
            test size.
        random: Take fresh parameters, as for benchmarks.
        options: What kind of program.
        offline: Whether to look for weights in the cache only.

    Returns:
        The artifact's directory: see `nfx.serving.load_artifact`.

    Raises:
        ValueError: If something is missing or does not fit.
        ArtifactError: If it cannot be written there.
        RunDirectoryError: If a directory is not a run.
        CheckpointError: If its last checkpoint is damaged.
    """
    path = check_destination(output or _default_name(what))
    if random:
        classifier = random_classifier(str(what), class_names=class_names, image_size=image_size)
    else:
        _check_has_weights(what)
        classifier = load_classifier(
            what, model=model, class_names=class_names, image_size=image_size, offline=offline
        )
    return _save(classifier, path, options)


def _save(classifier: Classifier, path: Path, options: ExportOptions) -> Path:
    artifact = export_classifier(
        classifier.model,
        name=classifier.name,
        images=classifier.images,
        class_names=classifier.class_names,
        statistics=classifier.statistics,
        options=options,
    )
    return save_artifact(artifact, path)


def _check_has_weights(what: str | Path) -> None:
    if str(what) in MODELS and not Path(what).expanduser().exists():
        raise ValueError(
            f"{str(what)!r} is the name of a model and has no weights: give a run directory, a "
            "file of weights (with --model), a name on the Hugging Face Hub as "
            "'timm/dm_nfnet_f0.dm_in1k', or --random for fresh parameters."
        )


def _default_name(what: str | Path) -> str:
    path = Path(what).expanduser()
    return f"{path.stem if path.is_file() else path.resolve().name}.nfx"
