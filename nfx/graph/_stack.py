"""Blocks of a stage that are alike, run by a loop."""

import functools as ft
from collections.abc import Callable, Sequence
from itertools import groupby, islice
from typing import Any

import jax
from jaxtyping import PyTree

from nfx._tree import replace_fields
from nfx.models import NFBlock, NFNet, Stage
from nfx.nn import check_loop, Remat, Stack


def stack_blocks(model: NFNet, *, remat: Remat = "none", unroll: int = 1) -> NFNet:
    """Returns `model` with every run of alike blocks in a stage as one `nfx.nn.Stack`.

    It computes the same, and its gradients, stochastic depth and clipping are the same; its
    program and the time to compile it no longer grow with its depth. The blocks that go into a
    stack differ in beta and in the rate of stochastic depth only: all of a stage but the first.
    Their parameters are stored stacked, under `stages/2/blocks/1/block/conv0/weight`.

    >>> model = jax.eval_shape(lambda: stack_blocks(create_model("nfnet_f7", key=key)))

    Args:
        model: A model of `create_model`; a stack that is there already is stacked anew. Abstract
            leaves need `jax.eval_shape`, as above.
        remat: What the backward pass computes again in place of keeping it: "none"; "full", each
            block from its input; "convs", all but the outputs of convolutions; or a policy of
            `jax.checkpoint_policies`.
        unroll: Blocks in one turn of the loop.

    Raises:
        ValueError: If the model has no `NFBlock`s, or `remat` or `unroll` is not what it can be.
    """
    check_normalizer_free(model)
    check_loop(remat, unroll)  # of a model without alike blocks too

    def stacked(stage: Stage) -> tuple[NFBlock | Stack, ...]:
        runs = [list(run) for _, run in groupby(stage.unstacked, key=_kind)]
        return tuple(
            Stack(run, remat=remat, unroll=min(unroll, len(run))) if len(run) > 1 else run[0]
            for run in runs
        )

    return _map_stages(stacked, model)


def unstack_blocks(model: PyTree) -> PyTree:
    """Returns `model` with all its blocks on their own: undoes `stack_blocks`, to the bit.

    A model without stacks is returned as it is. Leaves may be abstract.
    """
    if not _is_stacked(model):
        return model
    return _of_arrays_or_shapes(ft.partial(_map_stages, lambda stage: stage.unstacked), model)


def stack_like(model: PyTree, like: PyTree) -> PyTree:
    """Stacks the blocks of `model`, which are on their own, exactly as those of `like` are."""
    if not _is_stacked(like):
        return model

    def stacked(model: NFNet) -> NFNet:
        others = iter(like.stages)
        return _map_stages(lambda stage: _stacked_like(stage.unstacked, next(others).blocks), model)

    return _of_arrays_or_shapes(stacked, model)


def check_normalizer_free(model: PyTree) -> None:
    """Raises a `ValueError` if `model` is not a normalizer-free network."""
    if not isinstance(model, NFNet):
        raise ValueError(
            "Only a normalizer-free network (nfx.models.NFNet) can be rewritten so, and this is a "
            f"{type(model).__name__}."
        )


def _is_stacked(model: PyTree) -> bool:
    return isinstance(model, NFNet) and any(
        isinstance(blocks, Stack) for stage in model.stages for blocks in stage.blocks
    )


def _of_arrays_or_shapes(rewrite: Callable[[NFNet], NFNet], model: NFNet) -> NFNet:
    abstract = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(model))
    return jax.eval_shape(rewrite, model) if abstract else rewrite(model)


def _stacked_like(
    blocks: Sequence[NFBlock], like: Sequence[NFBlock | Stack]
) -> tuple[NFBlock | Stack, ...]:
    left = iter(blocks)
    return tuple(
        Stack(list(islice(left, other.depth)), remat=other.remat, unroll=other.unroll)
        if isinstance(other, Stack)
        else next(left)
        for other in like
    )


def _map_stages(blocks: Callable[[Stage], tuple[NFBlock | Stack, ...]], model: NFNet) -> NFNet:
    stages = tuple(replace_fields(stage, blocks=blocks(stage)) for stage in model.stages)
    return replace_fields(model, stages=stages)


def _kind(block: NFBlock) -> Any:
    """Equal for blocks that can be one: without what they may differ in."""
    depth = replace_fields(block.stochastic_depth, rate=0.0)
    plain = replace_fields(block, beta=1.0, stochastic_depth=depth)
    leaves, structure = jax.tree.flatten(plain)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
