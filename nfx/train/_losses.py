"""What is minimized."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def smoothed_cross_entropy(
    logits: Float[Array, "*n classes"], targets: Float[Array, "*n classes"], smoothing: float
) -> Float[Array, "*n"]:
    """Cross-entropy with label smoothing, in float32 whatever the dtype of the logits.

    Args:
        logits: Scores of the classes.
        targets: A distribution over classes, one-hot or mixed.
        smoothing: Share of the targets that is spread evenly, after mixing: 0.1 in the paper.
    """
    smoothed = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), smoothed)


def one_hot(labels: Int[Array, " n"], num_classes: int) -> Float[Array, "n {num_classes}"]:
    """Turns labels into targets, in float32."""
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
