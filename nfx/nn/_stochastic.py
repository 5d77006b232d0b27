"""What is random in training: dropped branches and dropped features. One example, one key."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class StochasticDepth(eqx.Module):
    """Drops a residual branch, for the whole example or not at all.

    References:
        Huang et al. (2016), arXiv:1603.09382; official code, `StochDepth`, which does not
        divide the surviving branch by its probability (timm's `DropPath` does).
    """

    rate: float = eqx.field(static=True)
    scale_by_keep: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"The drop rate must be in [0, 1), got rate={self.rate}.")

    def __call__(
        self,
        x: Float[Array, "*shape"],
        *,
        key: PRNGKeyArray | None = None,
        keep: Float[Array, ""] | None = None,
    ) -> Float[Array, "*shape"]:
        """Returns `x`, or with probability `rate` zeros. Without a key, `x`.

        Args:
            x: The branch.
            key: Randomness.
            keep: In the place of `1 - rate`, where that is data: see `Stack`.
        """
        if key is None or (keep is None and self.rate == 0):
            return x
        share = 1 - self.rate if keep is None else keep
        kept = jax.random.bernoulli(key, share).astype(x.dtype)
        return x * (kept / jnp.asarray(share, x.dtype) if self.scale_by_keep else kept)


def dropout(
    x: Float[Array, "*shape"], rate: float, *, key: PRNGKeyArray | None
) -> Float[Array, "*shape"]:
    """Zeroes each entry with probability `rate` and divides the others by `1 - rate`.

    Without a key, or at rate 0, returns `x`. The rate must be in [0, 1).

    References:
        Srivastava et al. (2014), JMLR 15.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)
