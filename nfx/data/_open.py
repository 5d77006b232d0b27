"""From what a user names to images."""

from pathlib import Path

from nfx._show import typed_path
from nfx.data._array_record import load_records
from nfx.data._folder import load_folder
from nfx.data._listed import find_archives
from nfx.data._manifest import MANIFEST, SCRATCH
from nfx.data._sample import load_sample
from nfx.data._sources import NoiseSource, Source, Splits


# Images of noise, as many as ImageNet has to train on.
_NOISE = 1_281_167


def open_sources(
    data: str | Path, *, noise_shape: tuple[int, int, int] = (1, 1, 3)
) -> Splits[Source]:
    """Opens images by the name or path of what holds them, without reading any.

    Args:
        data: "sample", the images that nfx carries; "noise", for measuring; a folder of images:
            see `load_folder`; or what `nfx convert` wrote: see `load_records`.
        noise_shape: Height, width and channels of noise.

    Raises:
        ValueError: If there is nothing of the kind there, saying what was expected.
    """
    if data == "sample":
        return Splits(*(images.source for images in load_sample()))
    if data == "noise":
        return Splits(NoiseSource(_NOISE, noise_shape), NoiseSource(1_000, noise_shape, seed=1))
    root = Path(data).expanduser()
    if (root / MANIFEST).exists() or (root / SCRATCH).exists():
        return load_records(root)
    if root.is_dir() and (archives := find_archives(root)):
        raise ValueError(
            f"{str(root)!r} holds {' and '.join(archives)} files, which are not read in random "
            f"order: convert them once with `nfx convert {typed_path(root)} NEW`, and train on "
            "--data NEW."
        )
    return load_folder(root)
