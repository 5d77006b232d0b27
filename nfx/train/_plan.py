"""What a mesh does to a training step, worked out before anything is compiled."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from nfx._tree import leaves_by_path
from nfx.graph import attention_is_split, is_split, split_channels, whole_blocks
from nfx.models import NFBlock, NFNet
from nfx.nn import SqueezeExcite, Stack
from nfx.sharding import (
    AnyMesh,
    batch_axes,
    batch_shards,
    check_batch_divides,
    Communication,
    shards,
    spec_axes,
)
from nfx.train._gradients import check_microbatches
from nfx.train._options import StepOptions
from nfx.train._placement import idle_axes, state_specs
from nfx.train._precision import Precision
from nfx.train._step import TrainState


class LeafPlan(NamedTuple):
    """Where one leaf of a state lives.

    Attributes:
        path: Of the leaf.
        shape: Of the whole array.
        dtype: Its dtype.
        spec: How it is split.
        bytes: Of the whole array.
        bytes_per_device: Of the part that each device keeps.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    spec: P
    bytes: int
    bytes_per_device: int


class ExpectedCollectives(NamedTuple):
    """What devices tell each other for one purpose, in each step.

    Attributes:
        purpose: What for.
        kind: As `nfx.aot.Collective` names it.
        number: How many arrays. A compiler joins some of them into one collective.
        bytes: On one device, counted as `nfx.aot.Collective` counts.
    """

    purpose: str
    kind: str
    number: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a training step is spread over a mesh.

    Attributes:
        mesh: Size of each axis.
        leaves: Where each leaf of the state lives.
        collectives: What a forward and backward pass sends, without recomputation; sharpness-aware
            minimization takes two. The update adds sums of a few numbers for each output unit,
            where a leaf is split along them.
        whole_blocks: Blocks that the axis "model" does not split, and why.
        idle_axes: Axes that are to split the state and split nothing of it.
    """

    mesh: Mapping[str, int]
    leaves: tuple[LeafPlan, ...]
    collectives: tuple[ExpectedCollectives, ...]
    whole_blocks: Mapping[str, str]
    idle_axes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of the whole state."""
        return sum(leaf.bytes for leaf in self.leaves)

    @property
    def bytes_per_device(self) -> int:
        """Of the part of the state that each device keeps."""
        return sum(leaf.bytes_per_device for leaf in self.leaves)

    @property
    def large_whole_leaves(self) -> tuple[LeafPlan, ...]:
        """Leaves that are whole on every device though they are over 1 % of what it keeps.

        On a mesh of "data" alone there are none.
        """
        if all(size == 1 for axis, size in self.mesh.items() if axis != "data"):
            return ()
        threshold = self.bytes_per_device / 100
        return tuple(
            leaf for leaf in self.leaves if leaf.bytes == leaf.bytes_per_device > threshold
        )

    def to_json(self) -> str:
        """Writes the plan as JSON."""
        return json.dumps(
            {
                "mesh": dict(self.mesh),
                "bytes": self.bytes,
                "bytes_per_device": self.bytes_per_device,
                "leaves": [{**leaf._asdict(), "spec": list(leaf.spec)} for leaf in self.leaves],
                "collectives": [expected._asdict() for expected in self.collectives],
                "whole_blocks": dict(self.whole_blocks),
                "idle_axes": self.idle_axes,
                "large_whole_leaves": [leaf.path for leaf in self.large_whole_leaves],
            },
            indent=2,
        )


def plan_step(
    state: TrainState,
    mesh: AnyMesh,
    image_shape: tuple[int, int, int],
    batch_size: int,
    options: StepOptions = StepOptions(),
) -> Plan:
    """Plans a training step.

    Args:
        state: The state, abstract or not.
        mesh: The mesh; its devices need not be there.
        image_shape: Height, width and channels of the images.
        batch_size: Of the global batch.
        options: How the step is computed.

    Raises:
        ValueError: If the rules leave a leaf out, the mesh does not divide it or the batch, or
            the step cannot be taken in such parts.
    """
    check_batch_divides(mesh, batch_size)
    tree = state_specs(state, mesh, options.rules, model=state.model)
    specs = leaves_by_path(tree)
    leaves = tuple(
        _plan_leaf(path, leaf, specs[path], mesh) for path, leaf in leaves_by_path(state).items()
    )
    model = [leaf for leaf in leaves if leaf.path.startswith("model/")]
    images = batch_size // batch_shards(mesh)
    normalized = state.statistics is not None and not options.frozen_statistics
    check_microbatches(options.microbatches, images, mixes=False, batch_normalized=normalized)
    of_blocks = _block_collectives(
        state.model, mesh, image_shape, images // options.microbatches, options.precision
    )
    found = [
        *_parameter_collectives(model, mesh, options.communication),
        *(_times(options.microbatches, expected) for expected in of_blocks),
    ]
    return Plan(
        mesh=dict(mesh.shape),
        leaves=leaves,
        collectives=tuple(expected for expected in found if expected.number),
        whole_blocks=whole_blocks(state.model, mesh.shape.get("model", 1)),
        idle_axes=idle_axes(tree, mesh),
    )


def _plan_leaf(path: str, leaf: Any, spec: P, mesh: AnyMesh) -> LeafPlan:
    whole = math.prod(leaf.shape) * leaf.dtype.itemsize
    parts = shards(spec, mesh.shape)
    return LeafPlan(path, tuple(leaf.shape), leaf.dtype.name, spec, whole, whole // parts)


def _parameter_collectives(
    leaves: Sequence[LeafPlan], mesh: AnyMesh, communication: Communication
) -> Iterator[ExpectedCollectives]:
    """Gathering parameters, and adding up their gradients over the batch."""
    axes = batch_axes(mesh)
    gathered, reduced, kept = [], [], []
    for leaf in leaves:
        split = [axis for entry in leaf.spec for axis in spec_axes(entry) if axis in axes]
        parts = math.prod(mesh.shape[axis] for axis in split)
        if parts > 1:
            gathered.append(parts * _bytes_sent(leaf, communication.gather_dtype))
            reduced.append(parts * _bytes_sent(leaf, communication.reduce_dtype))
        if parts < batch_shards(mesh):
            kept.append(_bytes_sent(leaf, communication.reduce_dtype))
    yield _expect("parameters", "all-gather", gathered)
    yield _expect("gradients, of what is gathered", "reduce-scatter", reduced)
    yield _expect("gradients, the rest of the batch's axes", "all-reduce", kept)
    yield _expect("loss", "all-reduce", [4] if batch_shards(mesh) > 1 else [])


def _bytes_sent(leaf: LeafPlan, dtype: str | None) -> int:
    """Bytes of a device's part of a leaf in a dtype, None for its own."""
    itemsize = lambda name: jnp.dtype(name).itemsize
    return leaf.bytes_per_device * itemsize(dtype or leaf.dtype) // itemsize(leaf.dtype)


def _block_collectives(
    model: PyTree,
    mesh: AnyMesh,
    image_shape: tuple[int, int, int],
    images: int,
    precision: Precision,
) -> Iterator[ExpectedCollectives]:
    """Sums over the axis "model", in the blocks whose channels are split over it."""
    split = split_channels(model, "model", mesh.shape.get("model", 1))
    activations, gates, statistics = [], [], []
    image = jax.ShapeDtypeStruct(image_shape, jnp.dtype(precision.compute))
    for block, inputs, outputs in _blocks_with_images(split, model, image):
        if not is_split(block):
            continue
        number = image.dtype.itemsize * images
        # Forward, what the last convolution returns; backward, the gradient of the block's input.
        activations += [number * math.prod(outputs), number * math.prod(inputs)]
        gates += [number * channels for channels in _gate_channels(block)]
        # Mean and variance of the last kernel, and two sums for its gradient.
        statistics += [outputs[-1] * jnp.dtype(precision.parameters).itemsize] * 4
    yield _expect("activations of split blocks", "all-reduce", activations)
    yield _expect("squeeze-excite of split blocks", "all-reduce", gates)
    yield _expect("weight standardization of split blocks", "all-reduce", statistics)


def _gate_channels(block: NFBlock) -> list[int]:
    """The lengths of the vectors that a block's attention adds up for each image, both ways."""
    inner, outer = block.inner_attention, block.attention
    lengths = [inner.fc0.bias.shape[-1]] if isinstance(inner, SqueezeExcite) else []
    if isinstance(outer, SqueezeExcite) and attention_is_split(block):
        lengths.append(outer.fc1.bias.shape[-1])
    return 2 * lengths


def _blocks_with_images(
    split: PyTree, model: PyTree, image: jax.ShapeDtypeStruct
) -> Iterator[tuple[NFBlock, tuple[int, ...], tuple[int, ...]]]:
    """Every block of a network, with the shapes of its input and output for one image."""
    if not isinstance(split, NFNet):
        return
    features = jax.eval_shape(lambda model, image: model.features(image), model, image)
    inputs = features.stem.shape
    for stage, output in zip(split.stages, features.stages, strict=True):
        for blocks in stage.blocks:
            stacked = isinstance(blocks, Stack)
            for _ in range(blocks.depth if stacked else 1):
                yield blocks.block if stacked else blocks, inputs, output.shape
                inputs = output.shape


def _expect(purpose: str, kind: str, sizes: Sequence[int]) -> ExpectedCollectives:
    return ExpectedCollectives(purpose, kind, len(sizes), sum(sizes))


def _times(count: int, expected: ExpectedCollectives) -> ExpectedCollectives:
    return expected._replace(number=count * expected.number, bytes=count * expected.bytes)
