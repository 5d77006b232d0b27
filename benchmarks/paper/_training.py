"""Training of small networks, many times over: one setting, one seed, one accuracy."""

import dataclasses
import functools as ft
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray, PyTree

from benchmarks.paper._fashion import Fashion, MEAN, Split, STD
from nfx import create_model
from nfx.augment import Augmentation
from nfx.data import Batch
from nfx.optim import nfnet_sgd, OFFICIAL_GROUPS, scaled_learning_rate, warmup_cosine
from nfx.sharding import make_mesh
from nfx.train import create_state, make_evaluation_step, make_train_step, Preprocessing, TrainState


# Share of the steps over which the rate rises: the paper's five of ninety epochs.
_WARMUP = 5 / 90

# The same shape with and without normalization: seven blocks of one 3x3 convolution each, on 7x7
# pixels at most, so that two cores see 60,000 images in a quarter of a minute.
_SMALL = {"stem_strides": (2, 2), "stochastic_depth_rate": 0.0, "drop_rate": 0.0}


# Images of a step of evaluation; it divides both test sets.
_TESTED = 500


class Network(NamedTuple):
    """What to train.

    Attributes:
        name: Of the model.
        fields: Of its variant, to replace.
        rewrite: What is done to the model as it is built.
    """

    name: str
    fields: Mapping[str, Any]
    rewrite: Callable[[PyTree], PyTree] | None = None


BATCH_NORM = Network("se_resnext_micro", _SMALL)
NORMALIZER_FREE = Network("nfnet_micro", {**_SMALL, "two_convs": False})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of an experiment.

    Attributes:
        network: What to train.
        batch_size: Images in a step.
        learning_rate: Peak rate for a batch of 256; it is scaled to the batch size.
        epochs: How often each image is seen.
        clipping: Bound of adaptive gradient clipping, or None for none.
        clip_norm: Bound on the norm of the whole gradient (the paper's equation 6), or None.
        unclipped: Leaves that adaptive clipping leaves alone.
        augmentation: What happens to training images.
    """

    network: Network
    batch_size: int = 256
    learning_rate: float = 0.1
    epochs: float = 4
    clipping: float | None = None
    clip_norm: float | None = None
    unclipped: tuple[str, ...] = OFFICIAL_GROUPS.unclipped
    augmentation: Augmentation = Augmentation()

    @property
    def key(self) -> str:
        """What the setting is, as text."""
        name, fields, rewrite = self.network
        rewritten = "" if rewrite is None else f" {rewrite.__name__}"
        others = dataclasses.replace(self, network=name)
        return f"{others} {dict(sorted(fields.items()))}{rewritten}"


class Outcome(NamedTuple):
    """What a training came to.

    Attributes:
        accuracy: On the test images, with the parameters as they are at the end.
        loss: Of training, over the last twentieth of the steps.
        finite: Whether every loss was.
        seconds: Wall time.
    """

    accuracy: float
    loss: float
    finite: bool
    seconds: float


# Trains with one seed, which decides all that is random, and tests.
Trainer = Callable[[int], tuple[Outcome, TrainState]]


def make_trainer(setting: Setting, data: Fashion) -> Trainer:
    """Compiles the steps of a setting once, for all seeds."""
    steps = max(1, math.floor(setting.epochs * len(data.train.labels) / setting.batch_size))
    mesh = make_mesh({"data": 1}, jax.devices()[:1])
    optimizer = _optimizer(setting, steps)
    preprocessing = Preprocessing(MEAN, STD, setting.augmentation, label_smoothing=0.0)
    step = make_train_step(optimizer, preprocessing, mesh)
    evaluate = make_evaluation_step(preprocessing, mesh)

    def train(seed: int) -> tuple[Outcome, TrainState]:
        began = time.monotonic()
        init, run = jax.random.split(jax.random.key(seed))
        state = create_state(ft.partial(build, setting.network, init), optimizer, mesh)
        losses = []
        for batch in _batches(data.train, setting.batch_size, steps, seed):
            state, metrics = step(state, batch, run)
            losses.append(metrics["loss"])
        losses = np.array(jax.device_get(losses))
        accuracy = _accuracy(evaluate, state, data.test)
        last = losses[-max(1, steps // 20) :]
        seconds = time.monotonic() - began
        return Outcome(
            accuracy, float(last.mean()), bool(np.isfinite(losses).all()), seconds
        ), state

    return train


def build(network: Network, key: PRNGKeyArray) -> PyTree:
    """Builds a network for the ten classes, with fresh parameters."""
    model = create_model(network.name, num_classes=10, in_channels=1, key=key, **network.fields)
    return model if network.rewrite is None else network.rewrite(model)


def _optimizer(setting: Setting, steps: int) -> optax.GradientTransformation:
    rate = scaled_learning_rate(setting.learning_rate, setting.batch_size)
    sgd = nfnet_sgd(
        warmup_cosine(rate, steps=steps, warmup_steps=_WARMUP * steps),
        clipping=setting.clipping,
        ema=0.0,
        groups=OFFICIAL_GROUPS._replace(unclipped=setting.unclipped),
    )
    if setting.clip_norm is None:
        return sgd
    return optax.chain(optax.clip_by_global_norm(setting.clip_norm), sgd)


def _batches(split: Split, batch_size: int, steps: int, seed: int) -> Iterator[Batch]:
    """Passes over the images, each in an order of its own."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(split.labels))])
        taken, order = order[:batch_size], order[batch_size:]
        yield Batch(split.images[taken], split.labels[taken])


def _accuracy(evaluate: Callable[..., Any], state: TrainState, split: Split) -> float:
    correct = 0.0
    for start in range(0, len(split.labels), _TESTED):
        batch = Batch(*(part[start : start + _TESTED] for part in split))
        correct += float(evaluate(state.model, state.statistics, batch).correct)
    return correct / len(split.labels)
