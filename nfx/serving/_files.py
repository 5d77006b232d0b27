"""Artifacts on disk: written whole or not at all, read only if nothing has changed."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from nfx._files import file_digest, sync
from nfx.serving._artifact import Artifact
from nfx.serving._manifest import ArtifactError, Manifest, read_manifest, write_manifest


SUFFIX = ".nfx"

_MANIFEST = "manifest.json"
_PROGRAM = "program.bin"
_WEIGHTS = "weights.safetensors"


def is_artifact(path: str | Path) -> bool:
    """Whether a path is meant to be an artifact: by its suffix, or by what is in it."""
    path = Path(path).expanduser()
    return path.suffix == SUFFIX or (path / _MANIFEST).is_file()


def check_destination(path: str | Path) -> Path:
    """Returns the path that an artifact can be saved under.

    Raises:
        ArtifactError: If it does not end in `.nfx`, is taken, or its directory does not exist.
    """
    path = Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise ArtifactError(f"{str(path)!r} must end in {SUFFIX}: artifacts are known by that.")
    if path.exists() or path.is_symlink():
        raise ArtifactError(f"{str(path)!r} exists already: remove it, or choose another name.")
    if not path.parent.is_dir():
        raise ArtifactError(f"No directory {str(path.parent)!r} to write {path.name!r} into.")
    return path


def save_artifact(artifact: Artifact, path: str | Path) -> Path:
    """Writes an artifact as a directory, which is there as a whole or not at all.

    It is written under another name and renamed when everything is on the disk.

    Args:
        artifact: What to save.
        path: Where; must end in `.nfx` and not exist yet.

    Returns:
        The path.

    Raises:
        ArtifactError: If it cannot be written there, or a package is missing.
    """
    path = check_destination(path)
    _require_flatbuffers()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir()
        _write_contents(artifact, temporary)
        temporary.rename(path)
        sync(path.parent)
    except OSError as error:
        raise ArtifactError(f"Cannot write {str(path)!r}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def load_artifact(path: str | Path) -> Artifact:
    """Reads an artifact, after comparing every byte with its checksums.

    Args:
        path: The directory.

    Raises:
        ArtifactError: If there is none, something is missing, damaged or cannot be read, it is of
            another format, or it was not made for the platform of this process.
    """
    path = Path(path).expanduser()
    try:
        manifest = _verified_manifest(path)
        _check_runs_here(manifest)
        _require_flatbuffers()
        return Artifact(manifest, _read_program(path), _read_weights(path, manifest))
    except (ArtifactError, OSError) as error:
        raise ArtifactError(f"Cannot use the artifact {str(path)!r}: {error}.") from error


def _write_contents(artifact: Artifact, directory: Path) -> None:
    program, weights = directory / _PROGRAM, directory / _WEIGHTS
    program.write_bytes(artifact.program.serialize())
    if artifact.manifest.weights == "separate":
        arrays = {name: np.asarray(x, order="C") for name, x in artifact.weights.items()}
        weights.write_bytes(_safetensors().save(arrays))
    contents = sorted(directory.iterdir())
    # The manifest comes last: without it, nothing is an artifact.
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": file_digest(file)} for file in contents
    }
    (directory / _MANIFEST).write_text(write_manifest(artifact.manifest, files))
    for written in (*contents, directory / _MANIFEST, directory):
        sync(written)


def _verified_manifest(path: Path) -> Manifest:
    if not path.is_dir():
        raise ArtifactError("there is no such directory")
    try:
        text = (path / _MANIFEST).read_text()
    except FileNotFoundError as error:
        raise ArtifactError(f"it has no {_MANIFEST}, and is not a whole one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"its {_MANIFEST} cannot be read ({error})") from error
    manifest, files = read_manifest(text)
    needed = {_PROGRAM, _WEIGHTS} if manifest.weights == "separate" else {_PROGRAM}
    if set(files) != needed:
        raise ArtifactError(f"its {_MANIFEST} must list {', '.join(sorted(needed))}")
    for name, written in files.items():
        _check_file(path / name, written)
    return manifest


def _check_file(file: Path, written: Mapping[str, Any]) -> None:
    if not file.is_file():
        raise ArtifactError(f"it has no {file.name}: copy the directory again, with all its files")
    size = file.stat().st_size
    if size != written["bytes"]:
        raise ArtifactError(
            f"its {file.name} has {size:,} bytes and not {written['bytes']:,}: copy it again"
        )
    if file_digest(file) != written["sha256"]:
        raise ArtifactError(f"its {file.name} is damaged, by its checksum: copy it again")


def _check_runs_here(manifest: Manifest) -> None:
    platform = jax.export.default_export_platform()
    if platform not in manifest.platforms:
        raise ArtifactError(
            f"it was made for {', '.join(manifest.platforms)}, and JAX runs on {platform} here: "
            f"export with --platforms {','.join((*manifest.platforms, platform))}"
        )
    oldest, newest = (
        jax.export.minimum_supported_calling_convention_version,
        jax.export.maximum_supported_calling_convention_version,
    )
    if not oldest <= manifest.calling_convention <= newest:
        raise ArtifactError(
            f"jax {manifest.jax} wrote its program by calling convention "
            f"{manifest.calling_convention}, and jax {jax.__version__} reads {oldest} to {newest}: "
            "install a nearer version, or export again"
        )


def _read_program(path: Path) -> jax.export.Exported:
    content = bytearray((path / _PROGRAM).read_bytes())
    try:
        return jax.export.deserialize(content)
    except Exception as error:  # of any kind: the file is whole, and this JAX cannot read it
        raise ArtifactError(
            f"jax {jax.__version__} cannot read its program ({error}): export again with it"
        ) from error


def _read_weights(path: Path, manifest: Manifest) -> dict[str, Any]:
    if manifest.weights == "baked":
        return {}
    return dict(_safetensors().load_file(str(path / _WEIGHTS)))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ArtifactError("artifacts need safetensors: pip install 'nfx[export]'") from error
    return safetensors.numpy


def _require_flatbuffers() -> None:
    """Raises what to install, before `jax.export` fails half-way."""
    try:
        import flatbuffers  # noqa: F401
    except ModuleNotFoundError as error:
        raise ArtifactError("jax.export needs flatbuffers: pip install 'nfx[export]'") from error
