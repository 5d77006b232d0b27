"""Where a state lives on a mesh, and a model as one of its devices sees it."""

import functools as ft
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jaxtyping import PyTree

from nfx.graph import channel_rules, split_channels
from nfx.sharding import (
    AnyMesh,
    BATCH_AXES,
    batch_axes,
    collect,
    Communication,
    FULLY_SHARDED,
    partition_specs,
    Rules,
    spec_axes,
)


def state_specs(
    state: PyTree, mesh: AnyMesh, rules: Rules = FULLY_SHARDED, *, model: PyTree | None = None
) -> PyTree[P]:
    """Returns the spec of each leaf of a state.

    Blocks are split over the axis "model" where their groups divide: see
    `nfx.graph.split_channels`. Beside that, `rules` split over the axis "fsdp". On a mesh that has
    neither, everything is whole on every device.

    Args:
        state: A model, or a state with its leaves, and leaves of the same paths, in it; may be
            abstract.
        mesh: The mesh, which may be abstract.
        rules: A table: see `nfx.sharding.partition_specs`. It splits one axis of an array, over
            axes of the batch.
        model: The model in a state that is not itself one.

    Raises:
        ValueError: If the rules leave a leaf out, split what they may not, or the mesh does not
            divide a leaf.
    """
    _check_rules(rules)
    network = state if model is None else model
    channels = channel_rules(network, "model", mesh.shape.get("model", 1))
    return partition_specs(state, mesh.shape, channels, rules)


def idle_axes(specs: PyTree[P], mesh: AnyMesh) -> tuple[str, ...]:
    """Returns the axes that are to split a state and split nothing of it.

    Args:
        specs: See `state_specs`.
        mesh: The mesh.
    """
    leaves = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, P))
    used = {axis for spec in leaves for entry in spec for axis in spec_axes(entry)}
    wanted = ("fsdp", "model")
    return tuple(axis for axis in wanted if mesh.shape.get(axis, 1) > 1 and axis not in used)


def state_shardings(
    state: PyTree, mesh: Mesh, rules: Rules = FULLY_SHARDED, *, model: PyTree | None = None
) -> PyTree[NamedSharding]:
    """Returns `state_specs` as shardings over the mesh."""
    specs = state_specs(state, mesh, rules, model=model)
    return jax.tree.map(ft.partial(NamedSharding, mesh), specs)


def _check_rules(rules: Rules) -> None:
    for pattern, specs in rules:
        for spec in specs:
            split = [spec_axes(entry) for entry in spec if entry is not None]
            unknown = {axis for axes in split for axis in axes} - set(BATCH_AXES)
            if unknown or len(split) > 1:
                raise ValueError(
                    f"The rule {pattern!r} has the spec {spec}: rules split one axis of an array, "
                    f"over {' and '.join(BATCH_AXES)}. Channels are split over 'model' without any."
                )


def shard_model(
    function: Callable[..., Any],
    mesh: Mesh,
    *,
    rules: Rules = FULLY_SHARDED,
    communication: Communication = Communication(),
    in_specs: tuple[P, ...],
    out_specs: PyTree[P],
) -> Callable[..., Any]:
    """Returns `function(model, *others)` as one fully manual `jax.shard_map` over the mesh.

    Inside, the model is whole, but for the channels that its blocks split over "model". Its
    gradients come out split as it went in, added up over the batch, and not averaged.

    Args:
        function: What each device computes, of its part of the batch. What it returns for all of
            it, as a loss, it must average or add up over the axes of the batch itself.
        mesh: The mesh.
        rules: How the model is split: see `state_specs`.
        communication: In which dtypes parameters and gradients go between devices.
        in_specs: Of the arguments after the model.
        out_specs: Of what the function returns.
    """

    def local(specs: PyTree[P], model: PyTree, *others: PyTree) -> Any:
        return function(collect(model, specs, batch_axes(mesh), communication), *others)

    sharded = _sharded(local, mesh, rules, in_specs, lambda specs: out_specs)
    # What a compiled program is called in reports and profiles.
    sharded.__name__ = sharded.__qualname__ = function.__name__
    return sharded


def shard_gradients(
    function: Callable[..., tuple[Any, PyTree]],
    mesh: Mesh,
    *,
    rules: Rules = FULLY_SHARDED,
    communication: Communication = Communication(),
    in_specs: tuple[P, ...],
    out_specs: PyTree[P],
) -> Callable[..., tuple[Any, PyTree]]:
    """As `shard_model`, of a function that differentiates by the model itself.

    Args:
        function: Returns what it returns, and the gradient of this device's part of a sum over
            the batch. The gradients of all devices are added up, once, and come out split as
            the model went in.
        mesh: The mesh.
        rules: How the model is split: see `state_specs`.
        communication: In which dtypes parameters and gradients go between devices.
        in_specs: Of the arguments after the model.
        out_specs: Of what the function returns before the gradient.
    """

    def local(specs: PyTree[P], model: PyTree, *others: PyTree) -> tuple[Any, PyTree]:
        gather = lambda model: collect(model, specs, batch_axes(mesh), communication)
        whole, add_up = jax.vjp(gather, model)
        result, gradients = function(whole, *others)
        return result, add_up(gradients)[0]

    sharded = _sharded(local, mesh, rules, in_specs, lambda specs: (out_specs, specs))

    def differentiate(model: PyTree, *others: PyTree) -> tuple[Any, PyTree]:
        result, gradients = sharded(model, *others)
        return result, jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(gradients))

    return differentiate


def _sharded(
    local: Callable[..., Any],
    mesh: Mesh,
    rules: Rules,
    in_specs: tuple[P, ...],
    out_specs: Callable[[PyTree[P]], PyTree[P]],
) -> Callable[..., Any]:
    """Maps `local(specs, model, *others)`, of a model that is split as its specs say."""

    def sharded(model: PyTree, *others: PyTree) -> Any:
        specs = state_specs(model, mesh, rules)
        model = split_channels(model, "model", mesh.shape.get("model", 1))
        # The same leaves in the same order: the trees differ in static fields.
        specs = jax.tree.unflatten(jax.tree.structure(model), jax.tree.leaves(specs))
        mapped = jax.shard_map(
            ft.partial(local, specs),
            mesh=mesh,
            in_specs=(specs, *in_specs),
            out_specs=out_specs(specs),
        )
        return mapped(model, *others)

    return sharded
