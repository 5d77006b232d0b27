"""A classifier as a compiled-to-be program, its weights, and what they are for."""

import dataclasses
import functools as ft
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nfx.serving._manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A program from pixels to logits, for the platforms it was lowered for.

    Attributes:
        manifest: What it is.
        program: Called with the weights, as a list in the order of their names, and images.
        weights: Arrays by the paths of the model's leaves; none if they are baked in.
    """

    manifest: Manifest
    program: jax.export.Exported
    weights: Mapping[str, Any]

    def logits(self, images: np.ndarray | Array) -> Float[Array, "n classes"]:
        """Computes the logits of images.

        Every new number of images compiles anew, unless the artifact has a batch size: then any
        number is split into batches, and the last one filled up.

        Args:
            images: uint8, of shape `(n, *manifest.images.shape)`, on a device of this machine or
                in host memory.

        Raises:
            ValueError: If they are anything else, or none at all.
        """
        expected = self.manifest.images.shape
        if images.ndim != 4 or images.shape[1:] != expected or images.dtype != np.uint8:
            raise ValueError(
                f"{self.manifest.model!r} takes uint8 images of shape (n, "
                f"{', '.join(map(str, expected))}); got {images.dtype} of shape {images.shape}."
            )
        if not len(images):
            raise ValueError("There are no images.")
        size = self.manifest.batch_size
        if size == "symbolic":
            return self._call(self._leaves, images)
        batches = (images[start : start + size] for start in range(0, len(images), size))
        logits = [self._call(self._leaves, _fill(batch, size)) for batch in batches]
        return jnp.concatenate(logits)[: len(images)]

    @ft.cached_property
    def _call(self) -> Callable[..., Array]:
        return jax.jit(self.program.call)

    @ft.cached_property
    def _leaves(self) -> list[Array]:
        """The weights on the device, in the order of the program's arguments."""
        return jax.device_put([self.weights[name] for name in sorted(self.weights)])


def _fill(images: np.ndarray | Array, size: int) -> np.ndarray | Array:
    """Appends black images up to a batch."""
    missing = size - len(images)
    return np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else images
