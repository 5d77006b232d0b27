"""What a run's checkpoint makes of each test image, and of the signal in its network."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from nfx.analysis import signal_propagation, SignalPropagation
from nfx.augment import normalize
from nfx.checkpoint import first_whole, Which
from nfx.data import BadImage, Images
from nfx.models import is_batch_normalized
from nfx.recipes._build import abstract_batch, Parts
from nfx.recipes._feed import Feed
from nfx.recipes._recipe import Recipe
from nfx.recipes._saved import look_at
from nfx.train import (
    abstract_state,
    make_outcome_step,
    Outcomes,
    run_outcomes,
    RunDirectory,
    timed,
    TrainState,
)


# Test images that the signal's statistics are taken over.
_SIGNAL_IMAGES = 64

_MISTAKES = 24


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run's state at a step.

    Attributes:
        step: The step.
        state: The state; None if there is no checkpoint that is whole.
        damaged: What is wrong with those that were tried before.
    """

    step: int
    state: TrainState | None
    damaged: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A test image that is taken for another class.

    Attributes:
        name: What the image is called.
        pixels: As the network gets it, on a scale of 0 to 255.
        label: Its class.
        predicted: The class that it is taken for.
        probability: The probability of that class.
        loss: Its cross-entropy.
    """

    name: str
    pixels: np.ndarray
    label: int
    predicted: int
    probability: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a checkpoint's averaged parameters do.

    Attributes:
        step: The step of the checkpoint.
        outcomes: What becomes of each test image.
        mistakes: The worst, of the highest loss first.
        skipped: Test images that cannot be used.
        before: How the signal goes through the network as it is initialized; None if the run
            starts from weights, or the network normalizes its signal.
        after: The same at the checkpoint; None if the network normalizes its signal.
    """

    step: int
    outcomes: Outcomes
    mistakes: Sequence[Mistake]
    skipped: Sequence[BadImage]
    before: SignalPropagation | None
    after: SignalPropagation | None


def load_checkpoint(directory: RunDirectory, parts: Parts, mesh: Mesh, step: Which) -> Checkpoint:
    """Loads a checkpoint, or the latest that is whole. Nothing is written, moved or removed.

    Args:
        directory: The run, which may be going on.
        parts: What its recipe stands for.
        mesh: Where the state will live.
        step: The step of the checkpoint, or "best"; None for the latest.

    Raises:
        CheckpointError: If there is no checkpoint of the step that was asked for, or it is damaged.
    """
    like = abstract_state(parts.build_model, parts.optimizer, mesh)
    with look_at(directory) as store:
        if step is not None:
            found = store.find(step)
            return Checkpoint(found, store.restore(like, step=found), ())
        found, damaged = first_whole(store, like, store.steps()[::-1])
    latest, state = found or (0, None)
    return Checkpoint(latest, state, list(map(str, damaged.values())))


def find_out(
    checkpoint: Checkpoint,
    recipe: Recipe,
    parts: Parts,
    mesh: Mesh,
    say: Callable[[str], object],
) -> Findings:
    """Runs a checkpoint's averaged parameters on every test image.

    Args:
        checkpoint: The checkpoint, with a state.
        recipe: The run's recipe.
        parts: What it stands for, with the images to take.
        mesh: Where the state lives.
        say: Is told what is being done.

    Raises:
        ValueError: If not one image can be used.
    """
    state, images = checkpoint.state, parts.images.test
    assert state is not None
    skipped: list[BadImage] = []
    feed = Feed(parts.images, mesh, lambda split, count, bad: skipped.append(bad))
    with timed(f"Classifying {len(images):,} test images", say):
        batch = abstract_batch(images, feed.evaluation_batch_size, mesh)
        step = make_outcome_step(parts.preprocessing, mesh)
        compiled = step.lower(state.ema, state.statistics, batch).compile()
        outcomes = run_outcomes(compiled, state.ema, state.statistics, feed.evaluation())
    before = after = None
    if not is_batch_normalized(recipe.model):
        with timed("Measuring the signal", say):
            before, after = _signals(state, recipe, parts, outcomes.image)
    mistakes = _mistakes(outcomes, images)
    return Findings(checkpoint.step, outcomes, mistakes, skipped, before, after)


def _signals(
    state: TrainState, recipe: Recipe, parts: Parts, usable: np.ndarray
) -> tuple[SignalPropagation | None, SignalPropagation]:
    """The signal of the network as it is initialized, and as it has become, on one device."""
    images = parts.images.test
    count = min(_SIGNAL_IMAGES, len(usable))
    spread = usable[np.linspace(0, len(usable) - 1, count).astype(int)]  # over all classes
    pixels = np.stack([images.judge(int(index)).image for index in spread])
    mean, std = parts.preprocessing[:2]
    normalized = normalize(jnp.asarray(pixels), mean, std)
    propagate = jax.jit(signal_propagation)

    def measure(model: PyTree) -> SignalPropagation:
        placed = jax.device_put(model, jax.devices()[0])
        return jax.device_get(propagate(placed, normalized))

    # The weights that a run starts from need not be there any more.
    before = None if recipe.init else measure(jax.jit(parts.build_model)())
    return before, measure(state.ema)


def _mistakes(outcomes: Outcomes, images: Images) -> list[Mistake]:
    return [
        Mistake(
            images.source[int(index)].name,
            images.judge(int(index)).image,
            int(label),
            int(predicted),
            float(probability),
            float(loss),
        )
        for index, label, predicted, probability, loss in zip(
            *outcomes.worst(_MISTAKES), strict=True
        )
    ]
