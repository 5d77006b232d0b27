"""In which dtypes a step computes."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from nfx._dtypes import Dtype
from nfx._names import check_choice
from nfx.models import apply_batch


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """In which dtypes a network computes: see `PRECISIONS` for those that have a name.

    The rest is no choice: the state (parameters, momentum, average) is kept in float32, logits go
    into the loss in float32, and gradients are added up and clipped, norms and all, in float32.
    bfloat16 has the range of float32, so that no loss is scaled.

    Attributes:
        compute: Of images, activations, and the kernels that they are convolved with.
        parameters: What parameters are cast to before kernels are standardized; means, variances
            and their gradients are computed in it. Never narrower than what is computed in.

    Raises:
        ValueError: If a dtype is none of those, or kernels are standardized in the narrower one.
    """

    compute: Dtype = "float32"
    parameters: Dtype = "float32"

    def __post_init__(self) -> None:
        """Checks the dtypes."""
        for field in dataclasses.fields(self):
            check_choice(field.name, getattr(self, field.name), get_args(Dtype))
        if (self.compute, self.parameters) == ("float32", "bfloat16"):
            raise ValueError(
                "Parameters rounded by parameters='bfloat16' gain nothing from compute='float32': "
                "choose 'bfloat16' for both, or 'float32' for the parameters."
            )


PrecisionName = Literal["float32", "mixed", "official_bf16"]

PRECISIONS: Mapping[PrecisionName, Precision] = MappingProxyType({
    "float32": Precision(),
    # What it costs to keep the statistics is a pass over the kernels; not over the images.
    "mixed": Precision(compute="bfloat16"),
    # The official code casts all parameters before the forward pass, and gradients back after
    # the backward pass.
    "official_bf16": Precision(compute="bfloat16", parameters="bfloat16"),
})  # fmt: skip


def apply_precisely(
    precision: Precision,
    model: PyTree,
    statistics: PyTree,
    images: Float[Array, "n h w c"],
    keys: Key[Array, " n"] | None = None,
    *,
    batch_axes: tuple[str, ...] | None = None,
) -> tuple[Float[Array, "n classes"], PyTree]:
    """Computes the logits of a batch, in float32, as a policy says, and the next state.

    Args:
        precision: The policy.
        model: Any model of `nfx.create_model`. Its derivative comes in its own dtype.
        statistics: Its state: see `nfx.models.initial_statistics`; it keeps its dtype.
        images: Normalized images.
        keys: See `nfx.models.apply_batch`.
        batch_axes: See there too.
    """
    model = jax.tree.map(lambda leaf: leaf.astype(precision.parameters), model)
    images = images.astype(precision.compute)
    logits, statistics = apply_batch(model, statistics, images, keys, batch_axes=batch_axes)
    return logits.astype(jnp.float32), statistics
