"""Batch normalization: what normalizer-free networks do without, to compare with them."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class BatchStatistics(NamedTuple):
    """Running averages of one layer: its state, which calls take and return.

    Attributes:
        mean: Of each channel.
        variance: Of each channel, biased.
    """

    mean: Float[Array, " c"]
    variance: Float[Array, " c"]


class BatchNorm(eqx.Module):
    """Normalizes each channel by the statistics of a batch.

    The only module of nfx whose examples see each other, and so the only one that takes a
    batch. Differences from `equinox.nn.BatchNorm`: the batch is an axis of the array (inside
    the manual `jax.shard_map` of the training step JAX cannot reduce over an axis of
    `jax.vmap`), channels are last, every leaf is an array, the statistics are a plain pytree,
    and the axes of the mesh are named by the call, so that a model does not depend on them.

    References:
        Ioffe & Szegedy (2015), arXiv:1502.03167.
    """

    unit_axes: ClassVar = {"gain": "c ->", "bias": "c ->"}

    gain: Float[Array, " c"]
    bias: Float[Array, " c"]
    decay: float = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, channels: int, *, gain: float = 1.0, decay: float = 0.9, eps: float = 1e-5):
        """Starts as the plain normalization.

        Args:
            channels: Channels of the image.
            gain: Initial gain. Zero closes the residual branch that the layer ends.
            decay: Of the running averages.
            eps: Added to the variance.
        """
        self.gain = jnp.full(channels, gain, jnp.float32)
        self.bias = jnp.zeros(channels)
        self.decay = decay
        self.eps = eps

    def initial_statistics(self) -> BatchStatistics:
        """Returns mean zero and variance one."""
        return BatchStatistics(jnp.zeros_like(self.bias), jnp.ones_like(self.bias))

    @jax.named_scope("nfx.nn.BatchNorm")
    def __call__(
        self,
        x: Float[Array, "n h w c"],
        statistics: BatchStatistics,
        *,
        batch_axes: tuple[str, ...] | None = None,
    ) -> tuple[Float[Array, "n h w c"], BatchStatistics]:
        """Normalizes a batch, in its dtype; statistics are in theirs.

        Args:
            x: The images, or this device's part of them.
            statistics: The running averages.
            batch_axes: In training, the axes of the mesh that the batch is split over, possibly
                none: the statistics of the whole batch are used, and the running averages
                follow them. None is inference: the running averages are used.
        """
        wide = x.astype(statistics.mean.dtype)
        if batch_axes is None:
            used = statistics
        else:
            mean = _mean(wide, batch_axes)
            variance = _mean(jnp.square(wide - mean), batch_axes)
            used = BatchStatistics(mean, variance)
            statistics = jax.tree.map(
                lambda old, new: self.decay * old + (1 - self.decay) * new, statistics, used
            )
        gain, bias = (leaf.astype(wide.dtype) for leaf in (self.gain, self.bias))
        scale = gain * jax.lax.rsqrt(used.variance + self.eps)
        return ((wide - used.mean) * scale + bias).astype(x.dtype), statistics


def _mean(x: Float[Array, "n h w c"], batch_axes: tuple[str, ...]) -> Float[Array, " c"]:
    """The mean of each channel over the batch, of which every device has as many examples."""
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jax.lax.pmean(mean, batch_axes) if batch_axes else mean
