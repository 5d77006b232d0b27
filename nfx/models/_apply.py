"""One way to run a batch through either kind of network."""

import jax
from jaxtyping import Array, Float, Key, PyTree

from nfx.models._batch_norm_net import BatchNormNet, NetStatistics


def initial_statistics(model: PyTree) -> NetStatistics | None:
    """Returns the state that `model` starts with: running averages, or for an NF net None."""
    return model.initial_statistics() if isinstance(model, BatchNormNet) else None


def apply_batch(
    model: PyTree,
    statistics: NetStatistics | None,
    images: Float[Array, "n h w c"],
    keys: Key[Array, " n"] | None = None,
    *,
    batch_axes: tuple[str, ...] | None = None,
) -> tuple[Float[Array, "n classes"], NetStatistics | None]:
    """Computes the logits of a batch, and the next state.

    Args:
        model: Any model of `create_model`.
        statistics: Its state: see `initial_statistics`.
        images: Normalized images.
        keys: Randomness of dropout and stochastic depth, one key an example.
        batch_axes: In training, the axes of the mesh that the batch is split over, possibly
            none: batch statistics are those of the whole batch. None is inference.

    Raises:
        ValueError: If a batch-normalized model comes without its state.
    """
    if not isinstance(model, BatchNormNet):
        return jax.vmap(lambda image, key: model(image, key=key))(images, keys), None
    check_state(model, statistics)
    assert statistics is not None  # or that raises
    return model(images, statistics, batch_axes=batch_axes, keys=keys)


def check_state(model: PyTree, statistics: PyTree) -> None:
    """Raises a `ValueError` if a batch-normalized model comes without its state."""
    if isinstance(model, BatchNormNet) and statistics is None:
        raise ValueError(
            "A batch-normalized model has a state: start with nfx.models.initial_statistics(model)."
        )
