"""Another classifier on the same features."""

from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray, PyTree

from nfx.nn import Linear


Model = TypeVar("Model", bound=PyTree)


def reset_classifier(
    model: Model, num_classes: int, *, std: float = 0.01, key: PRNGKeyArray
) -> Model:
    """Returns `model` with a fresh `head`, and everything else as it was.

    Args:
        model: A model of `create_model`, or any with a `head` that is a `nfx.nn.Linear`.
        num_classes: Length of the logits.
        std: Standard deviation of the new weights; the bias is zeros.
        key: Randomness for the weights.

    Raises:
        ValueError: If `num_classes` is not positive.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes} must be positive.")
    features = model.head.weight.shape[0]
    initializer = jax.nn.initializers.normal(std)
    head = Linear(features, num_classes, initializer=initializer, key=key)
    return eqx.tree_at(lambda tree: tree.head, model, head)
