"""States of single transforms in the state of a chain."""

from typing import TypeVar

import jax
import optax


State = TypeVar("State")


def find_states(opt_state: optax.OptState, *kinds: type[State]) -> list[State]:
    """Returns the states of some kinds, wherever in the chain they are, in its order."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    return [leaf for leaf in leaves if isinstance(leaf, kinds)]
