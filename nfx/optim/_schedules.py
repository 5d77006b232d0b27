"""Learning rates as functions of the 0-based step. They are optax schedules."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float


def scaled_learning_rate(rate: float, batch_size: int) -> float:
    """Scales a rate given for a batch of 256 linearly to `batch_size` (arXiv:2102.06171)."""
    return rate * batch_size / 256


def warmup_cosine(
    peak: float,
    *,
    steps: int | float,
    warmup_steps: int | float = 0.0,
    start: float = 0.0,
    end: float = 0.0,
) -> optax.Schedule:
    """Rises linearly to `peak`, then falls along half a cosine to `end`.

    Args:
        peak: Rate at `warmup_steps`.
        steps: Step at which the rate is `end`. It stays there; the official code's rises
            again.
        warmup_steps: Length of the rise; a fraction is fine (the paper's is 1563.9).
        start: Rate at step 0.
        end: Final rate.

    Raises:
        ValueError: If the rise does not leave room for the fall.

    References:
        Official code, `optim.WarmupCosineDecay`.
    """
    _check_warmup(warmup_steps, steps)

    def schedule(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup_steps) / (steps - warmup_steps), 0, 1)
        cosine = end + 0.5 * (peak - end) * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step <= warmup_steps, _rise(step, start, peak, warmup_steps), cosine)

    return schedule


def warmup_exponential(
    peak: float,
    *,
    warmup_steps: int | float,
    factor: float,
    interval: int | float,
    start: float = 0.0,
) -> optax.Schedule:
    """Rises linearly to `peak`, then is multiplied by `factor` every `interval` steps.

    Raises:
        ValueError: If the interval is not positive.

    References:
        Official code, `optim.WarmupExpDecay`.
    """
    if interval <= 0:
        raise ValueError(f"interval={interval} must be positive.")

    def schedule(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        decayed = peak * factor ** jnp.floor((step - warmup_steps) / interval)
        return jnp.where(step <= warmup_steps, _rise(step, start, peak, warmup_steps), decayed)

    return schedule


def _rise(step: Array, start: float, peak: float, warmup_steps: int | float) -> Array:
    # Without warm-up only step 0 comes here, and it is at the peak already.
    share = step / warmup_steps if warmup_steps else jnp.ones_like(step)
    return start + (peak - start) * share


def _check_warmup(warmup_steps: int | float, steps: int | float) -> None:
    if not 0 <= warmup_steps < steps:
        raise ValueError(
            f"warmup_steps={warmup_steps} must be at least 0 and less than steps={steps}: the "
            "rate has to come down again. Train longer or warm up for less."
        )
