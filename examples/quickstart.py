"""Train a small NFNet in pure JAX: no command, no trainer, a dozen lines of optimization.

Run it with `python examples/quickstart.py`; it takes half a minute on two cores.
"""

import argparse

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

import nfx
from nfx.augment import normalize
from nfx.data import evaluation_batches, load_sample, training_batches
from nfx.optim import ema_parameters, nfnet_sgd, warmup_cosine


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=400)
steps = parser.parse_args().steps

splits = load_sample()
model: PyTree = nfx.create_model("nfnet_nano", num_classes=10, in_channels=1, key=jax.random.key(0))
optimizer = nfnet_sgd(
    warmup_cosine(0.15, steps=steps, warmup_steps=steps // 10), clipping=0.02, ema=0.99
)


def mean_loss(model, images, labels, keys):
    logits = jax.vmap(lambda image, key: model(image, key=key))(images, keys)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@jax.jit
def step(model, opt_state, images, labels, key):
    keys = jax.random.split(key, len(labels))  # one an example: each drops its own branches
    images = normalize(images, (0.286,), (0.353,))
    loss, gradients = jax.value_and_grad(mean_loss)(model, images, labels, keys)
    updates, opt_state = optimizer.update(gradients, opt_state, model)
    return optax.apply_updates(model, updates), opt_state, loss


@jax.jit
def accuracy(model, images, labels):
    logits = jax.vmap(model)(normalize(images, (0.286,), (0.353,)))
    return jnp.mean(jnp.argmax(logits, axis=-1) == labels)


opt_state = optimizer.init(model)
batches = training_batches(splits.train, 32, seed=0)
for number in range(1, steps + 1):
    images, labels = next(batches)
    key = jax.random.fold_in(jax.random.key(1), number)
    model, opt_state, loss = step(model, opt_state, images, labels, key)
    if number % 100 == 0 or number == steps:
        print(f"step {number}  loss {loss:.3f}")

averaged = ema_parameters(opt_state)
images, labels = next(evaluation_batches(splits.test, len(splits.test)))
print(f"test accuracy {accuracy(averaged, images, labels):.1%}")
