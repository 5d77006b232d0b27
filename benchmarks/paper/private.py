"""Differentially private training (DP-SGD): what nets without normalization are for.

    python -m benchmarks.paper.private               # half an hour on two cores
    python -m benchmarks.paper.private --quick

No example sees another, so the gradient of each is one more `vmap`, on a batch that is split over
devices too. jax-privacy clips them, adds the noise, and its accountant says what that guarantees.
Shown: the gradients against a loop, the collectives of the step over eight devices, its cost beside
a plain step, and the accuracy for three budgets.
"""

import os
import time


os.environ["XLA_FLAGS"] = (
    f"--xla_force_host_platform_device_count=8 {os.environ.get('XLA_FLAGS', '')}"
)

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec as P
from jax_privacy.accounting import (
    calibrate_noise_multiplier,
    DpsgdTrainingAccountant,
    PldAccountantConfig,
)
from jax_privacy.clipping import clipped_grad
from jax_privacy.noise_addition import gaussian_privatizer

from benchmarks._measure import interleave
from benchmarks.paper._claims import COLORS, load_data, paint, parse_options, write_page
from benchmarks.paper._fashion import MEAN, STD
from benchmarks.paper._training import build, NORMALIZER_FREE
from nfx.aot import collectives
from nfx.augment import normalize
from nfx.optim import warmup_cosine
from nfx.sharding import make_mesh


CLIP_NORM = 1.0
DELTA = 1e-5
BUDGETS = (1.0, 3.0, 8.0)


def loss(model, image, label):
    """Of one example."""
    return optax.softmax_cross_entropy_with_integer_labels(model(image), label)


def make_private_gradients(mesh):
    """Makes `(model, images, labels, padding) -> (sum, losses)`: clipped gradients of examples.

    Each device has the gradients of its own examples, clips them and adds them up; the sum alone
    goes between devices. Padding counts for nothing: batches of a private training have random
    sizes, and programs have fixed ones.
    """
    clipped = clipped_grad(
        loss,
        l2_clip_norm=CLIP_NORM,
        batch_argnums=(1, 2),
        keep_batch_dim=False,
        return_values=True,
    )

    def local(model, images, labels, padding):
        # Each device's own copy: of a copy that all share, gradients would be added up over the
        # devices before they are clipped.
        model = jax.lax.pcast(model, "data", to="varying")
        images = normalize(images, MEAN, STD)
        gradients, details = clipped(model, images, labels, is_padding_example=padding)
        return jax.lax.psum(gradients, "data"), details.values

    split = P("data")
    return jax.shard_map(
        local, mesh=mesh, in_specs=(P(), split, split, split), out_specs=(P(), split)
    )


def main():
    options = parse_options(__doc__, seeds=1)
    began = time.monotonic()
    data = load_data(options)
    steps, expected = (2, 64) if options.quick else (200, 1024)
    budgets = BUDGETS[:1] if options.quick else BUDGETS
    rows = [_train(data, budget, steps, expected) for budget in budgets]
    cost = _cost(data, rounds=1 if options.quick else 5)
    error, moved = _check(data)
    write_page(
        options,
        "private",
        "Differentially private training",
        tables={
            f"Test accuracy after {steps} steps of about {expected} of {len(data.train.labels):,} "
            f"images, clipped to a norm of {CLIP_NORM:g}; delta is {DELTA:g}.": (
                ["epsilon", "noise over clipping norm", "accuracy, %"],
                [
                    [budget, f"{noise:.2f}", f"{100 * accuracy:.1f}"]
                    for budget, noise, accuracy in rows
                ],
            ),
            "A step of 256 images on one device, medians of rounds in turn.": (
                ["step", "wall, ms", "CPU, ms", "over the plain one"],
                cost,
            ),
            "The gradients of 16 examples on eight devices.": (
                ["", ""],
                [
                    [
                        "largest error of a leaf over its largest entry in a loop",
                        f"{error:.1e}",
                    ],
                    *moved,
                ],
            ),
        },
        figures={"accuracy": paint((5, 3.2), lambda figure: _draw(figure, rows))},
        seconds=time.monotonic() - began,
        packages=("jax", "nfx", "jax-privacy", "dp-accounting"),
    )


def _train(data, epsilon, steps, expected):
    """Trains privately within a budget; returns it, the noise and the test accuracy."""
    count = len(data.train.labels)
    noise = calibrate_noise_multiplier(
        target_epsilon=epsilon,
        accountant=DpsgdTrainingAccountant(PldAccountantConfig()),
        batch_sizes=expected,
        num_updates=steps,
        num_samples=count,
        target_delta=DELTA,
    )
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    gradients = make_private_gradients(mesh)
    optimizer = optax.chain(
        gaussian_privatizer(stddev=CLIP_NORM * noise, prng_key=jax.random.key(1)),
        optax.scale(1 / expected),
        optax.sgd(warmup_cosine(1.0, steps=steps, warmup_steps=steps / 20), 0.9, nesterov=True),
    )
    model = build(NORMALIZER_FREE, jax.random.key(0))
    state = optimizer.init(model)

    @jax.jit
    def step(model, state, *batch):
        updates, state = optimizer.update(gradients(model, *batch)[0], state, model)
        return optax.apply_updates(model, updates), state

    # Six deviations above what is expected: a larger batch will not be drawn.
    capacity = int(expected + 6 * np.sqrt(expected))
    rng = np.random.default_rng(0)
    for number in range(1, steps + 1):
        model, state = step(model, state, *_draw_batch(data.train, expected, capacity, rng))
        if number % 100 == 0:
            print(f"epsilon {epsilon}: step {number} of {steps}", flush=True)
    return epsilon, noise, _accuracy(model, data.test)


def _draw_batch(split, expected, capacity, rng):
    """Takes each image with the same probability, as the accountant assumes, and pads."""
    count = len(split.labels)
    taken = np.flatnonzero(rng.random(count) < expected / count)
    if len(taken) > capacity:
        raise ValueError(f"{len(taken)} images were drawn, and there is room for {capacity}.")
    indices = np.pad(taken, (0, capacity - len(taken)))
    return split.images[indices], split.labels[indices], np.arange(capacity) >= len(taken)


@jax.jit
def _predict(model, images):
    return jnp.argmax(jax.vmap(model)(normalize(images, MEAN, STD)), axis=-1)


def _accuracy(model, split):
    parts = np.array_split(np.arange(len(split.labels)), max(1, len(split.labels) // 500))
    right = [_predict(model, split.images[part]) == split.labels[part] for part in parts]
    return float(np.mean(np.concatenate(right)))


def _cost(data, rounds):
    """Times the gradient of a batch beside the private sum of gradients."""
    images, labels = data.train.images[:256], data.train.labels[:256]
    model = build(NORMALIZER_FREE, jax.random.key(0))
    padding = np.zeros(len(labels), bool)
    private = make_private_gradients(make_mesh({"data": 1}, jax.devices()[:1]))

    def mean_loss(model, images, labels, padding):
        return jnp.mean(jax.vmap(loss, (None, 0, 0))(model, normalize(images, MEAN, STD), labels))

    gradients = {"plain": jax.jit(jax.grad(mean_loss)), "private": jax.jit(private)}
    calls = {
        name: lambda function=function: jax.block_until_ready(
            function(model, images, labels, padding)
        )
        for name, function in gradients.items()
    }
    timings = interleave(calls, rounds)
    return [
        [
            name,
            f"{1e3 * timing.wall:.0f}",
            f"{1e3 * timing.cpu:.0f}",
            f"{timing.wall / timings['plain'].wall:.2f}",
        ]
        for name, timing in timings.items()
    ]


def _check(data):
    """Compares with a loop over examples, and lists what goes between eight devices."""
    images, labels = data.train.images[:16], data.train.labels[:16]
    model = build(NORMALIZER_FREE, jax.random.key(0))
    mesh = make_mesh({"data": 8}, jax.devices()[:8])
    batch = jax.device_put((images, labels, np.zeros(16, bool)), NamedSharding(mesh, P("data")))
    compiled = jax.jit(make_private_gradients(mesh)).lower(model, *batch).compile()
    summed, _ = compiled(model, *batch)
    moved = [
        [each.kind, f"{each.number} of {each.bytes:,} bytes in all"]
        for each in collectives(compiled.as_text() or "")
    ]
    return largest_error(summed, loop(model, images, labels)), moved


def loop(model, images, labels):
    """The gradients one after the other, clipped by optax."""
    clip = optax.clip_by_global_norm(CLIP_NORM)
    gradient = jax.jit(jax.grad(loss))
    return [
        clip.update(gradient(model, image, label), clip.init(model))[0]
        for image, label in zip(normalize(jnp.asarray(images), MEAN, STD), labels, strict=True)
    ]


def largest_error(summed, gradients):
    """Of any leaf of a sum of gradients, over the largest entry that one of them has there.

    The sum itself can be nearly zero, as that of a skip gain's is where examples disagree.
    """

    def error(total, *leaves):
        return np.abs(total - sum(leaves)).max() / max(np.abs(leaf).max() for leaf in leaves)

    return max(jax.tree.leaves(jax.tree.map(error, summed, *gradients)))


def _draw(figure, rows):
    axes = figure.subplots()
    epsilons, _, accuracies = zip(*rows, strict=True)
    axes.plot(epsilons, [100 * accuracy for accuracy in accuracies], "o-", color=COLORS[0])
    axes.set(xlabel="epsilon", ylabel="test accuracy, %", xscale="log")
    axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axes.minorticks_off()


if __name__ == "__main__":
    main()
