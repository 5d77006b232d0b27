"""Files of parameters: safetensors and `.npz`. Nothing is unpickled unless asked for."""

import os
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, IO

import numpy as np


class WeightsError(ValueError):
    """A file of weights that cannot be read, found or trusted."""


_CONVERT = (
    "Convert it once, in a throw-away container, with what it was written with, and keep the "
    "result: safetensors.numpy.save_file(arrays, 'weights.safetensors') or "
    "numpy.savez('weights.npz', **arrays)."
)

# What a pickle of nothing but arrays refers to.
_ARRAY_PARTS = frozenset({
    ("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
})  # fmt: skip


def read_weights(path: str | Path, *, unpickle: bool = False) -> dict[str, Any]:
    """Reads arrays by name from a safetensors or an `.npz` file, whichever it is.

    Args:
        path: The file. What is in it decides how it is read, not its suffix.
        unpickle: Whether to read a pickle, with a warning. Only arrays and dictionaries are
            let through; anything else in it is refused before it can run.

    Returns:
        Arrays by name; of a pickle, what was pickled: possibly nested dictionaries.

    Raises:
        WeightsError: If there is no such file, it is damaged, or it is a pickle.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"No file {str(path)!r}.")
    with path.open("rb") as file:
        start = file.read(16)
    if zipfile.is_zipfile(path) or start.startswith(b"PK"):
        return _read_npz(path)
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return _read_pickle(path, unpickle)
    return _read_safetensors(path)


def write_weights(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays by name; the file is there as a whole or not at all.

    Args:
        path: Where, with the suffix `.safetensors` or `.npz`.
        arrays: What.

    Raises:
        WeightsError: If the suffix is neither, or the file cannot hold a dtype.
    """
    path = Path(path).expanduser()
    contents = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    if path.suffix not in (".safetensors", ".npz"):
        raise WeightsError(f"{str(path)!r} must end in .safetensors or .npz.")
    foreign = [name for name, array in contents.items() if array.dtype.kind not in "fiub"]
    if path.suffix == ".npz" and foreign:
        raise WeightsError(
            f"An .npz file cannot hold the {contents[foreign[0]].dtype} of {foreign[0]!r}: write "
            ".safetensors, or convert to float32."
        )
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
        try:
            if path.suffix == ".npz":
                np.savez(file, **contents)  # pyright: ignore[reportArgumentType]
            else:
                from safetensors.numpy import save  # an extra

                file.write(save(contents))
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


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
    except ValueError as error:
        if "pickle" not in str(error):
            raise _damaged(path, error) from error
        raise WeightsError(
            f"{str(path)!r} holds Python objects and not only arrays, and they could run any code. "
            f"{_CONVERT}"
        ) from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
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
        with path.open("rb") as file:
            contents = _ArrayUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError) as error:
        raise WeightsError(f"Cannot unpickle {str(path)!r}: {error}. {_CONVERT}") from error
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{str(path)!r} holds a {type(contents).__name__}, not a dictionary.")
    return dict(contents)


class _ArrayUnpickler(pickle.Unpickler):
    """Loads dictionaries of NumPy arrays and refuses to look up anything else."""

    def __init__(self, file: IO[bytes]):
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not an array")
        # Where NumPy 2 keeps what NumPy 1 pickled.
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
