"""Models with their weights, from a file or from the Hugging Face Hub."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nfx._names import did_you_mean
from nfx.models import create_model, list_models, MODELS
from nfx.weights._files import flatten, read_description, read_weights, WeightsError
from nfx.weights._official import from_official
from nfx.weights._timm import from_timm


# What files are called, and repositories are not.
_SUFFIXES = (".safetensors", ".npz", ".pkl", ".pth", ".pt", ".bin")

# Where the classes and the input's channels can be read off: a pattern and an axis.
_CLASSES = ((r"head\.fc\.bias", 0), (r"[^/]+/~/linear/b", 0))
_CHANNELS = ((r"stem\.conv1?\.weight", 1), (r"[^/]+/~/(stem_conv0|initial_conv)/w", 2))


def load_pretrained(
    name_or_path: str | Path,
    *,
    model: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
    unpickle: bool = False,
    **overrides: Any,
) -> Any:
    """Loads a model with its weights; classes and channels are those of the weights.

    >>> model = nfx.load_pretrained("timm/dm_nfnet_f0.dm_in1k")
    >>> model = nfx.load_pretrained("weights.safetensors", model="nfnet_f0")

    Args:
        name_or_path: A repository of timm's on the Hugging Face Hub, or a file with weights by
            timm's or by official names: see `read_weights`.
        model: Its name in `list_models()`. A repository's follows from its name; a file's has
            to be given, unless the file itself says it.
        revision: Branch, tag or commit of the repository.
        cache_dir: Where downloads are kept; by default where all Hugging Face libraries do.
        offline: Whether to look into the cache only.
        unpickle: See `read_weights`.
        **overrides: Fields of the variant to replace: see `nfx.models.NFNetVariant`.

    Raises:
        WeightsError: If there is no such file or repository, it cannot be reached, or it is
            of another model.
        ValueError: If the arrays do not fit the model, listing all that do not.
    """
    name = pretrained_model(name_or_path, model)
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        path = _download(str(name_or_path), name, revision, cache_dir, offline)
    weights = flatten(read_weights(path, unpickle=unpickle))
    return _fill(weights, path, name, overrides)


def pretrained_model(name_or_path: str | Path, model: str | None = None) -> str:
    """Returns the name in `list_models()` of the model that weights are of.

    Args:
        name_or_path: See `load_pretrained`.
        model: The name, where it does not follow from that of the weights.

    Raises:
        WeightsError: If there is no such file or model, or a file's model is not given.
    """
    if not Path(name_or_path).expanduser().is_file():
        return _model_of(str(name_or_path), model)
    model = model or read_description(name_or_path).get("model")
    if model is None:
        raise WeightsError(
            f"{str(name_or_path)!r} does not say which model it is of: give its name, "
            f"model={list_models('timm/dm*')[0]!r} or another of nfx.list_models(); on a command "
            "line --model, and `nfx models`."
        )
    if model not in MODELS:
        raise WeightsError(f"Unknown model {model!r}. {did_you_mean(model, MODELS)}")
    return model


def _fill(weights: Mapping[str, Any], path: Path, model: str, overrides: Mapping[str, Any]) -> Any:
    classes, channels = _read_off(weights, _CLASSES), _read_off(weights, _CHANNELS)
    if classes is None or channels is None:
        names = ", ".join(map(repr, list(weights)[:5]))
        raise WeightsError(
            f"{str(path)!r} holds {len(weights)} arrays and not a classifier and a stem as timm or "
            f"the official code name them. It begins with {names}."
        )
    like = jax.eval_shape(
        lambda: create_model(
            model, num_classes=classes, in_channels=channels, key=jax.random.key(0), **overrides
        )
    )
    load = from_official if any("/" in name for name in weights) else from_timm
    return load(weights, like)


def _read_off(weights: Mapping[str, Any], places: tuple[tuple[str, int], ...]) -> int | None:
    for pattern, axis in places:
        for name, array in weights.items():
            if re.fullmatch(pattern, name) and np.ndim(array) > axis:
                return int(np.shape(array)[axis])
    return None


def _model_of(repository: str, model: str | None) -> str:
    """The model whose weights a repository holds, as its name says."""
    name, _, _ = repository.partition(".")
    if not re.fullmatch(r"timm/[\w-]+\.[\w.-]+", repository) or repository.endswith(_SUFFIXES):
        raise WeightsError(
            f"{repository!r} is no run directory, no file, nor the name of weights on the Hugging "
            "Face Hub, which are 'timm/MODEL.TRAINING', as 'timm/dm_nfnet_f0.dm_in1k'."
        )
    model = model or name
    if model not in MODELS:
        known = list_models("timm/*")
        raise WeightsError(
            f"{repository!r} is of {model!r}, which nfx does not have. {did_you_mean(model, known)}"
        )
    return model


def _download(
    repository: str, model: str, revision: str | None, cache_dir: str | Path | None, offline: bool
) -> Path:
    try:
        from huggingface_hub import errors, hf_hub_download
    except ModuleNotFoundError as error:
        raise WeightsError("Downloads need huggingface_hub: pip install 'nfx[weights]'") from error

    def fetch(filename: str) -> Path:
        return Path(
            hf_hub_download(
                repository, filename, revision=revision, cache_dir=cache_dir,
                local_files_only=offline,
            )
        )  # fmt: skip

    try:
        _check_architecture(repository, fetch, model)  # before gigabytes are fetched
        path = fetch("model.safetensors")
    except errors.LocalEntryNotFoundError as error:
        reason, advice = "the Hugging Face Hub cannot be reached", "Connect"
        if offline:
            reason, advice = "offline=True looks no further", "Leave that out"
        raise WeightsError(
            f"{repository!r} is not in the cache, and {reason}. {advice}, or copy the file here "
            "and pass its path."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"There is no repository {repository!r} on the Hugging Face Hub, or it needs a login "
            "(HF_TOKEN)."
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as error:
        raise WeightsError(
            f"{repository!r} has no model.safetensors at revision {revision or 'main'!r}."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise WeightsError(f"Cannot download {repository!r}: {error}") from error
    return path


def _check_architecture(repository: str, fetch: Any, model: str) -> None:
    """Raises if the repository's own description names another model."""
    from huggingface_hub import errors

    try:
        config = json.loads(fetch("config.json").read_text())
    except (errors.EntryNotFoundError, json.JSONDecodeError):
        return
    architecture = config.get("architecture")
    if architecture and f"timm/{architecture}" != model:
        raise WeightsError(
            f"{repository!r} holds weights of 'timm/{architecture}', not of {model!r}."
        )
