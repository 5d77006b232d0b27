r"""Clip the gradients of a model that somebody else wrote, in plain Equinox.

    python examples/agc_on_your_model.py
    python examples/agc_on_your_model.py --steps 500 --clipping 0.08

Equinox lays weights out with their outputs first, and keeps half of its layers' fields out of the
gradient. Clipping learns the layout from the modules; what it will do is printed before training.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import nfx
from nfx.augment import normalize
from nfx.data import evaluation_batches, load_sample, training_batches
from nfx.testing import check_clipping, LawViolation


class TheirNetwork(eqx.Module):
    """Not written for nfx."""

    convolutions: tuple[eqx.nn.Conv2d, ...]
    mlp: eqx.nn.MLP

    def __init__(self, *, key):
        keys = jax.random.split(key, 4)
        widths = (1, 16, 32, 32)
        self.convolutions = tuple(
            eqx.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, key=k)
            for inputs, outputs, k in zip(widths[:-1], widths[1:], keys[:3], strict=True)
        )
        self.mlp = eqx.nn.MLP(32 * 4 * 4, 10, 64, depth=1, key=keys[3])

    def __call__(self, image):
        """Takes an image with its channels last."""
        x = jnp.transpose(image, (2, 0, 1))
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return self.mlp(x.ravel())


parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--steps", type=int, default=300)
parser.add_argument("--clipping", type=float, default=0.05, help="the paper's lambda")
arguments = parser.parse_args()

splits = load_sample()
model = TheirNetwork(key=jax.random.key(0))
params, static = eqx.partition(model, eqx.is_inexact_array)
rule = {"clipping": arguments.clipping, "exclude": ("mlp/layers/1/weight",)}
optimizer = optax.chain(
    nfx.optim.adaptive_grad_clip(**rule),
    optax.sgd(optax.cosine_decay_schedule(0.1, arguments.steps), momentum=0.9, nesterov=True),
)
print(nfx.optim.describe(optimizer, params))

# What optax's own clips there is not a unit: it takes every layout for that of TensorFlow.
small = eqx.nn.Conv2d(2, 3, 2, use_bias=False, key=jax.random.key(0))
check_clipping(nfx.optim.adaptive_grad_clip, like=small)
try:
    check_clipping(optax.adaptive_grad_clip, like=small, laws=["bound"])
except LawViolation as violation:
    print(f"\noptax.adaptive_grad_clip on a convolution of Equinox:\n{violation}\n")


def mean_loss(params, images, labels):
    images = normalize(images, (0.286,), (0.353,))
    logits = jax.vmap(eqx.combine(params, static))(images)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@jax.jit
def step(params, opt_state, images, labels):
    loss, gradients = jax.value_and_grad(mean_loss)(params, images, labels)
    clipped = nfx.optim.clip_telemetry(gradients, params, **rule)
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss, clipped.share


@jax.jit
def correct(params, images, labels):
    logits = jax.vmap(eqx.combine(params, static))(normalize(images, (0.286,), (0.353,)))
    return jnp.sum(jnp.argmax(logits, axis=-1) == labels)


opt_state = optimizer.init(params)
batches = training_batches(splits.train, 32, seed=0)
for number in range(1, arguments.steps + 1):
    params, opt_state, loss, share = step(params, opt_state, *next(batches))
    if number % 100 == 0 or number == arguments.steps:
        print(f"step {number}  loss {loss:.3f}  units clipped {share:.0%}")

right = sum(int(correct(params, *batch)) for batch in evaluation_batches(splits.test, 100))
print(f"test accuracy {right / len(splits.test):.1%}")
