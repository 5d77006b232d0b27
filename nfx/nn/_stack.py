"""Blocks that are alike, as one block run in a loop."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from nfx._tree import replace_fields
from nfx.nn._lowering import CONVOLUTIONS


Remat = Literal["none", "full", "convs"] | Callable[..., Any]


class Stack(eqx.Module):
    """A sequence of blocks of one structure, run by `lax.scan`.

    The size of the compiled program, and the time it takes to compile, do not grow with the
    number of blocks. Values that differ between blocks and are no parameters, such as beta, ride
    along as data: a block's property `constants` returns them, and the block takes each as a
    keyword when it is called.

    Attributes:
        block: The block, whose leaves have a leading axis: that of the sequence.
        structures: The structure of each block.
        constants: Values for each block, by keyword.
        remat: What the backward pass computes again in place of keeping it: "none"; "full", a
            block from its input; "convs", all but the outputs of convolutions; or a policy of
            `jax.checkpoint_policies`.
        unroll: Blocks in one turn of the loop.
    """

    block: PyTree
    structures: tuple[Any, ...] = eqx.field(static=True)
    constants: tuple[tuple[str, tuple[float, ...]], ...] = eqx.field(static=True)
    remat: Remat = eqx.field(static=True)
    unroll: int = eqx.field(static=True)

    def __init__(self, blocks: Sequence[PyTree], *, remat: Remat = "none", unroll: int = 1):
        """Stacks blocks: see `nfx.graph.stack_blocks`.

        Args:
            blocks: Modules called as `block(x, key=key, **constants)`, that have leaves of the
                same shapes, keep the shape of `x`, and differ in their constants only.
            remat: See the attribute.
            unroll: See the attribute.

        Raises:
            ValueError: If there is no such policy, or `unroll` is not positive.
        """
        check_loop(remat, unroll)
        self.block = jax.tree.unflatten(
            jax.tree.structure(blocks[0]),
            [jnp.stack(leaves) for leaves in zip(*map(jax.tree.leaves, blocks), strict=True)],
        )
        self.structures = tuple(map(jax.tree.structure, blocks))
        constants = [block.constants for block in blocks]
        self.constants = tuple(
            (name, tuple(each[name] for each in constants)) for name in constants[0]
        )
        self.remat = remat
        self.unroll = unroll

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.structures)

    @property
    def blocks(self) -> tuple[PyTree, ...]:
        """The blocks, each with its own leaves and constants."""
        leaves = jax.tree.leaves(self.block)
        return tuple(
            jax.tree.unflatten(structure, [leaf[index] for leaf in leaves])
            for index, structure in enumerate(self.structures)
        )

    def with_static(self, change: Callable[[PyTree], PyTree]) -> "Stack":
        """Returns the stack of changed blocks.

        Args:
            change: Takes a block with shapes for leaves, and changes static fields other than its
                constants.
        """
        leaves = jax.tree.leaves(self.block)
        shapes = [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for leaf in leaves]
        changed = [change(jax.tree.unflatten(each, shapes)) for each in self.structures]
        structures = tuple(map(jax.tree.structure, changed))
        block = jax.tree.unflatten(structures[0], leaves)
        return replace_fields(self, block=block, structures=structures)

    @jax.named_scope("nfx.nn.Stack")
    def __call__(
        self, x: Float[Array, "h w c"], *, keys: Key[Array, " depth"] | None = None
    ) -> Float[Array, "h w c"]:
        """Runs the blocks on one image, one after the other, with a key for each."""

        def run(x: Array, each: tuple[PyTree, dict[str, Array], Any]) -> tuple[Array, None]:
            block, constants, key = each
            return block(x, key=key, **constants), None

        policy = self.remat if callable(self.remat) else _POLICIES[self.remat]
        # Inside of a loop nothing can be merged with what is computed again.
        run = run if policy is None else jax.checkpoint(run, policy=policy, prevent_cse=False)
        # In the dtype of Python's numbers, for the same masks from the same keys in any dtype.
        constants = {name: jnp.asarray(values) for name, values in self.constants}
        return jax.lax.scan(run, x, (self.block, constants, keys), unroll=self.unroll)[0]


def check_loop(remat: Remat, unroll: int) -> None:
    """Raises a `ValueError` if blocks cannot be run like that: see `Stack`."""
    if not callable(remat) and remat not in _POLICIES:
        names = ", ".join(map(repr, _POLICIES))
        raise ValueError(f"remat={remat!r} must be {names} or a policy of jax.checkpoint.")
    if unroll < 1:
        raise ValueError(f"unroll={unroll} must be positive.")


def _saves_convolutions(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive in CONVOLUTIONS


_POLICIES = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "convs": _saves_convolutions,
}
