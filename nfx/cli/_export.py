"""`nfx export`."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from nfx._show import format_bytes, typed_path
from nfx.aot import Dtype, ExportOptions
from nfx.cli._parse import parse
from nfx.cli._refuse import refuse
from nfx.data import read_class_names
from nfx.recipes import export
from nfx.serving import BatchSize, Storage


@dataclasses.dataclass(frozen=True)
class ExportCommand:
    """Write a classifier as a program for several platforms, which runs without nfx.

    It takes pixels and returns logits. `nfx predict` runs it, and so do a few lines of JAX.

    Attributes:
        what: A run directory, weights on the Hugging Face Hub (timm/dm_nfnet_f0.dm_in1k), or a
            file of weights (.safetensors, .npz).
        output: Directory to write, which must end in .nfx; by default named like what it is of.
        model: The name of the model that a file of weights is of: see `nfx models`.
        image_size: Side that images are brought to; by default the run's or the model's.
        class_names: A text file with the name of a class on each line, for weights.
        platforms: Where it will run, of cpu, cuda, rocm and tpu. None of them has to be here.
        weights: Beside the program in a file, or baked into it: for small models.
        batch_size: Images of a call; symbolic is any number.
        dtype: What to compute in.
        random: Export the model that is named, with fresh parameters.
        offline: Look for weights in the cache only.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|WEIGHTS")]
    output: Annotated[str, tyro.conf.arg(metavar="DIR.nfx")] = ""
    model: str | None = None
    image_size: int | None = None
    class_names: str | None = None
    platforms: str = "cpu,tpu,cuda"
    weights: Storage = "separate"
    batch_size: BatchSize = "symbolic"
    dtype: Dtype = "float32"
    random: bool = False
    offline: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and exports."""
    command = parse(ExportCommand, "nfx export", arguments)
    if command.random:
        refuse(command, ("model",), "With --random it is the model that is named first")
    options = ExportOptions(
        platforms=tuple(name.strip() for name in command.platforms.split(",")),
        batch_size=command.batch_size,
        dtype=command.dtype,
        weights=command.weights,
    )
    path = export(
        command.what,
        command.output,
        model=command.model,
        class_names=read_class_names(command.class_names),
        image_size=command.image_size,
        random=command.random,
        options=options,
        offline=command.offline,
    )
    sizes = (f"{file.name} {format_bytes(file.stat().st_size)}" for file in sorted(path.iterdir()))
    print(f"{path}, for {', '.join(options.platforms)}: {', '.join(sizes)}\n")
    print(f"Name what is in images:  nfx predict {typed_path(path)} IMAGES")
    return 0
