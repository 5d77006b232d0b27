"""The laws of layers and networks: the variance of the signal, and that examples are apart."""

import inspect
import itertools
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nfx.graph import taps, unstack_blocks
from nfx.models import NFNet
from nfx.testing._law import inexact_leaves, matching_leaves, violated


def check_variance_preserving(fn: Callable[[Any], Any], *, tolerance: float = 0.005) -> None:
    """Checks that an elementwise function keeps the variance of N(0, 1) inputs at one.

    The inputs are 65,536 quantiles of N(0, 1), which have its moments to four digits. The paper's
    gammas were estimated from samples: that of relu is off by 0.13 %.

    >>> check_variance_preserving(nfx.nn.ACTIVATIONS["gelu"])

    Args:
        fn: A function of an array.
        tolerance: Largest deviation of the variance from one.

    Raises:
        LawViolation: With the variance.
    """
    count = 65_536
    normal = NormalDist()
    quantiles = [normal.inv_cdf((index + 0.5) / count) for index in range(count)]
    outputs = np.asarray(fn(jnp.asarray(quantiles, jnp.float32)), np.float64)
    variance = outputs.var() / np.var(quantiles)
    if not abs(variance - 1) <= tolerance:
        raise violated(
            "variance",
            "N(0, 1) inputs give outputs of variance 1",
            f"It is {variance:.5g}: a factor of {variance**-0.5:.7g} is missing.",
        )


def check_variance_ledger(
    model: NFNet, *, image_size: int = 32, images: int = 8, tolerance: float = 0.15
) -> None:
    """Checks that each block's beta is one over the deviation of its input, at initialization.

    On images of noise, out of which pooling takes variance that it leaves in photos: give the
    model strides of one, and widths that grow, so that every stage begins with a projection. With
    open branches and an `alpha` of one, what the ledger predicts stands out.

    >>> check_variance_ledger(nfx.create_model("nfnet_micro", key=key, strides=(1, 1, 1, 1),
    ...     depths=(2, 3, 2, 1), widths=(32, 64, 96, 128), skip_gain=1.0, alpha=1.0))

    Args:
        model: A fresh model.
        image_size: Side of the images, in pixels.
        images: How many.
        tolerance: Largest deviation of `beta * deviation` from one.

    Raises:
        LawViolation: With the first block whose beta is off.
    """
    model = unstack_blocks(model)
    paths = [
        f"stages/{stage}/blocks/{index}"
        for stage, blocks in enumerate(model.stages)
        for index in range(len(blocks.blocks))
    ]
    channels = model.in_channels
    noise = jax.random.normal(jax.random.key(0), (images, image_size, image_size, channels))
    look = taps(model, paths, call=lambda model, image: model.features(image).stem)
    stems, outputs = jax.jit(jax.vmap(look))(noise)
    betas = [block.beta for stage in model.stages for block in stage.unstacked]
    inputs = [stems, *(outputs[path] for path in paths[:-1])]
    for path, beta, x in zip(paths, betas, inputs, strict=True):
        deviation = float(jnp.sqrt(jnp.mean(jnp.var(x, axis=(0, 1, 2)))))
        if not abs(beta * deviation - 1) <= tolerance:
            raise violated(
                "ledger",
                "beta is one over the deviation of a block's input",
                f"Block {path!r} has beta {beta:.4g} and an input of deviation {deviation:.4g}: "
                f"their product is {beta * deviation:.3g}.",
            )


def check_example_independence(
    fn: Callable[..., PyTree],
    *,
    image_shape: tuple[int, ...] = (16, 16, 3),
    batch_size: int = 4,
    rtol: float = 1e-4,
) -> None:
    """Checks that no example's output or gradient changes when its batch mates do.

    >>> check_example_independence(lambda images: jax.vmap(model)(images))
    >>> check_example_independence(
    ...     lambda images, keys: jax.vmap(lambda x, key: model(x, key=key))(images, keys)
    ... )

    Args:
        fn: A function of a batch, `images -> outputs` or, if it is random, `(images, keys) ->
            outputs`, with the examples first.
        image_shape: Of one image.
        batch_size: How many.
        rtol: Largest error over the largest entry of an output or gradient.

    Raises:
        LawViolation: With the example and what changed.
        ValueError: If an example has no batch mates.
    """
    if batch_size < 2:
        raise ValueError(
            f"batch_size={batch_size} must be at least 2: an example alone has no batch mates, and "
            "the law would hold of anything."
        )

    def draw(seed: int) -> tuple[jax.Array, jax.Array]:
        image_key, key = jax.random.split(jax.random.key(seed))
        images = jax.random.normal(image_key, (batch_size, *image_shape))
        return images, jax.random.split(key, batch_size)

    random = len(_required_parameters(fn)) > 1

    @jax.jit
    def run(images: jax.Array, keys: jax.Array) -> tuple[PyTree, jax.Array]:
        def total(images: jax.Array) -> tuple[jax.Array, PyTree]:
            outputs = fn(images, keys) if random else fn(images)
            sums = (jnp.sum(x) for x in inexact_leaves(outputs))
            return sum(sums, start=jnp.zeros(())), outputs

        gradient, outputs = jax.grad(total, has_aux=True)(images)
        return outputs, gradient

    images, keys = draw(0)
    before = run(images, keys)
    for seed, example in itertools.product(range(1, 5), range(batch_size)):
        others = draw(seed)  # several, as what is random may come out alike
        mates = jnp.arange(batch_size) != example
        after = run(
            jnp.where(mates.reshape(-1, *[1] * len(image_shape)), others[0], images),
            jnp.where(mates, others[1], keys),
        )
        _expect_same(before, after, example, rtol)


def _required_parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        parameter
        for parameter in inspect.signature(fn).parameters.values()
        if parameter.kind in positional and parameter.default is inspect.Parameter.empty
    ]


def _expect_same(before: PyTree, after: PyTree, example: int, rtol: float) -> None:
    for path, new, old in matching_leaves(after, before):
        kind, _, name = path.partition("/")
        old, new = (np.asarray(x[example], np.float64) for x in (old, new))
        error = np.max(np.abs(new - old), initial=0)
        if not error <= rtol * np.max(np.abs(old), initial=1e-6):
            what = ("output", "gradient")[int(kind)] + (f" {name!r}" if name else "")
            raise violated(
                "independence",
                "an example's output and gradient do not depend on its batch mates",
                f"The {what} of example {example} changed by {error:.3g} when the others did; its "
                f"largest entry is {np.max(np.abs(old), initial=0):.3g}.",
            )
