"""One key an example, the same on any mesh and after any resume."""

import jax
from jaxtyping import Array, Int, Key, PRNGKeyArray


def example_keys(
    key: PRNGKeyArray, step: Int[Array, ""] | int, indices: Int[Array, " n"]
) -> Key[Array, " n"]:
    """Derives a key for each example from (seed, step, index in the global batch).

    Args:
        key: The run's key, of JAX's default generator: its draws do not depend on how the
            examples are split over devices.
        step: The global step.
        indices: Where each example stands in the global batch.

    Raises:
        ValueError: If `key` is of a generator whose draws depend on the sharding.
    """
    generator = str(jax.random.key_impl(key))
    if "rbg" in generator:
        raise ValueError(
            f"Keys of the {generator!r} generator draw other numbers on another mesh; use "
            "jax.random.key(seed, impl='threefry2x32')."
        )
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda index: jax.random.fold_in(step_key, index))(indices)
