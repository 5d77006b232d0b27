"""Sharpness-aware minimization (SAM), with which NFNet-F6 was trained."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from nfx._dtypes import at_least_single


def sharpness_aware(
    optimizer: optax.GradientTransformation, radius: float
) -> optax.GradientTransformationExtraArgs:
    """Takes the gradient where the loss is about highest within a ball, and steps from here.

    This is `optax.contrib.sam` in its opaque mode, with one ascent step along the gradient of
    the whole model. Its update needs the gradient's function, and calls it once:

    >>> updates, state = optimizer.update(
    ...     gradients, state, params, grad_fn=lambda params, _: jax.grad(loss)(params)
    ... )

    `optimizer` sees the second gradient alone, so AGC in it clips that. The function must draw the
    same randomness, and reduce over devices, as the first gradient did. Training steps of nfx
    do all this by themselves: see `nfx.train.make_train_step`.

    Args:
        optimizer: What updates the parameters, by the gradient in the ball.
        radius: Of the ball in the space of all parameters; the paper calls it rho, and 0.05 is
            its value for ImageNet.

    Raises:
        ValueError: If `radius` is not positive.

    References:
        Foret et al. (2021), arXiv:2010.01412, equation 2.
    """
    if radius <= 0:
        raise ValueError(f"sharpness_aware needs a positive radius, got radius={radius}.")

    def ascend(gradients: PyTree, params: PyTree | None) -> PyTree:
        del params
        # Negative, as an optimizer's updates descend. Without a gradient there is no way up.
        wide = jax.tree.map(lambda each: each.astype(at_least_single(each.dtype)), gradients)
        scale = -radius / jnp.maximum(optax.tree.norm(wide), 1e-12)
        return jax.tree.map(
            lambda each, gradient: (each * scale.astype(each.dtype)).astype(gradient.dtype),
            wide, gradients,
        )  # fmt: skip

    return optax.contrib.sam(optimizer, optax.stateless(ascend), opaque_mode=True)
