"""Files of parameters: safetensors and `.npz`. Nothing is unpickled unless asked for."""

import contextlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nfx._files import replacing
from nfx.weights._pickles import unpickle_arrays


class WeightsError(ValueError):
    """A file of weights that cannot be read, found or trusted."""


# Of the metadata of safetensors files, what is nfx's.
_DESCRIPTION = "nfx"

_CONVERT = (
    "Convert it once, in a throw-away container, with what it was written with, and keep the "
    "result: safetensors.numpy.save_file(arrays, 'weights.safetensors') or "
    "numpy.savez('weights.npz', **arrays); of PyTorch, safetensors.torch.save_file("
    "torch.load('weights.pth', weights_only=True), 'weights.safetensors')."
)


def read_weights(path: str | Path, *, unpickle: bool = False) -> dict[str, Any]:
    """Reads arrays by name from a safetensors or an `.npz` file, whichever it is.

    Args:
        path: The file. What is in it decides how it is read, not its suffix.
        unpickle: Whether to read a pickle, with a warning. Only dictionaries of arrays of
            numbers are let through; nothing that a pickle names is looked up or called.

    Returns:
        Arrays by name; of a pickle, what was pickled: possibly nested dictionaries.

    Raises:
        WeightsError: If there is no such file, it cannot be read, it is damaged, or it is a pickle.
    """
    path = Path(path).expanduser()
    with _access(path, "read"):
        if not path.is_file():
            raise WeightsError(f"No file {str(path)!r}.")
        with path.open("rb") as file:
            start = file.read(16)
    if start[8:9] == b"{":  # before the others: the eight bytes before it can be any
        return _read_safetensors(path)
    if zipfile.is_zipfile(path) or start.startswith(b"PK"):
        return _read_npz(path)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _read_pickle(path, unpickle)
    raise _damaged(path, "neither begins like this")


def flatten(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Joins the two levels of a Haiku tree of parameters, if there are two."""
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}/{parameter}": array for parameter, array in value.items()})
        else:
            flat[name] = value
    return flat


def read_description(path: str | Path) -> dict[str, Any]:
    """Returns what a safetensors file of nfx's says of itself; nothing for any other file.

    Args:
        path: The file. Of a damaged file nothing is returned: `read_weights` says what is wrong.

    Raises:
        WeightsError: If the file is there and cannot be read.
    """
    path = Path(path).expanduser()
    with _access(path, "read"):
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= path.stat().st_size else b""
    try:
        return dict(json.loads(json.loads(header)["__metadata__"][_DESCRIPTION]))
    except (ValueError, KeyError, TypeError):
        return {}


def write_weights(
    path: str | Path, arrays: Mapping[str, Any], description: Mapping[str, Any] | None = None
) -> None:
    """Writes arrays by name; the file is there as a whole or not at all.

    Args:
        path: Where, with the suffix `.safetensors` or `.npz`.
        arrays: What.
        description: What a safetensors file is to say of itself, as JSON: see `read_description`.

    Raises:
        WeightsError: If the suffix is neither, the file cannot hold an array or a description,
            there is no such directory, or it cannot be written there.
    """
    path = check_destination(path, described=bool(description))
    contents = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    described = {_DESCRIPTION: json.dumps(description)} if description else None
    for name, array in contents.items():
        is_kept = array.dtype.kind in "fiub" or (
            path.suffix != ".npz" and array.dtype.name == "bfloat16"
        )
        if not is_kept:
            raise WeightsError(
                f"{path.suffix} files cannot hold {name!r} of {array.dtype}: convert to float32."
            )
    if path.suffix == ".npz" and (taken := {"file", "allow_pickle"} & set(contents)):
        raise WeightsError(f".npz files cannot hold an array called {min(taken)!r}: rename it.")
    with _access(path, "write"), replacing(path) as file:
        if path.suffix == ".npz":
            np.savez(file, **contents)  # pyright: ignore[reportArgumentType]
        else:
            from safetensors.numpy import save  # an extra

            file.write(save(contents, described))


def check_destination(path: str | Path, *, described: bool = False) -> Path:
    """Returns where weights are to be written, if they can be.

    Args:
        path: See `write_weights`.
        described: Whether with a description.

    Raises:
        WeightsError: If the suffix is wrong, or there is no such directory.
    """
    path = Path(path).expanduser()
    if path.suffix not in (".safetensors", ".npz"):
        raise WeightsError(f"{str(path)!r} must end in .safetensors or .npz.")
    if described and path.suffix == ".npz":
        raise WeightsError(f"{str(path)!r} must end in .safetensors, for its description.")
    with _access(path, "write"):
        if not path.parent.is_dir():
            raise WeightsError(f"No directory {str(path.parent)!r} to write {path.name!r} into.")
    return path


@contextlib.contextmanager
def _access(path: Path, verb: str) -> Iterator[None]:
    """Says of a file that the system does not let one read or write what to do."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"Cannot {verb} {str(path)!r} ({error.strerror or error}). See to the permissions and "
            "the room there, then try again."
        ) from error


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                raise WeightsError(
                    f"{str(path)!r} is a PyTorch checkpoint, which is a pickle and can run any "
                    f"code. {_CONVERT}"
                )
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except WeightsError:
        raise
    except Exception as error:  # damaged archives raise of every kind, down to zlib's own
        if isinstance(error, ValueError) and "pickle" in str(error):
            raise WeightsError(
                f"{str(path)!r} holds Python objects and not only arrays, and they could run any "
                f"code. {_CONVERT}"
            ) from error
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception | str) -> WeightsError:
    return WeightsError(
        f"Cannot read {str(path)!r} as safetensors or .npz ({error}): it is damaged, truncated or "
        f"something else ({path.stat().st_size:,} bytes). Get it again."
    )


def _read_pickle(path: Path, unpickle: bool) -> dict[str, Any]:
    if not unpickle:
        raise WeightsError(
            f"{str(path)!r} is a pickle, as the released official files are in spite of their "
            f"suffix .npz, and a pickle can run any code. {_CONVERT} Or pass unpickle=True, which "
            "lets nothing but arrays through."
        )
    warnings.warn(
        f"Unpickling {str(path)!r}: do so only with files from people you trust.", stacklevel=3
    )
    try:
        return unpickle_arrays(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"Cannot unpickle {str(path)!r}: {error}. {_CONVERT}") from error
