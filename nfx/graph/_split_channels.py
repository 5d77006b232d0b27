"""Blocks whose channels are split over an axis of the mesh: tensor parallelism."""

from collections.abc import Iterator

from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from nfx._tree import replace_fields
from nfx.models import NFBlock, NFNet, Stage
from nfx.nn import SqueezeExcite, Stack, WSConv2d
from nfx.sharding import Rule, Rules


def split_channels(model: PyTree, axis_name: str, size: int) -> PyTree:
    """Returns `model` for `jax.shard_map`, its blocks computing a slice of their channels.

    No array changes: layers learn the name of the axis of the mesh over which their input is
    split, and grouped convolutions how many groups are a device's own. Call it outside of
    `shard_map`, and give the result to it, split as `channel_rules` says:

    - the first 1x1 convolution computes a slice of the outputs, the grouped convolutions some of
      the groups: standardization is each device's own;
    - the last 1x1 convolution has a slice of its fan-in: the means and variances of its
      standardization are averaged over the axis, and its outputs added up, once a block;
    - squeeze-excite has a slice of its hidden layer, or if it is before the last convolution, of
      its input and output.

    A block is as it was on every device if its groups do not divide over the axis, if it is
    folded, or if its channels depend on their neighbors (efficient channel attention before the
    last convolution). So is everything outside of the blocks, and a model that has none.

    Args:
        model: Any model. Blocks may be stacked.
        axis_name: The axis of the mesh.
        size: Its size.

    References:
        Shoeybi et al. (2019), arXiv:1909.08053, for the pairing of slices of outputs and inputs.
    """
    if size == 1 or not isinstance(model, NFNet):
        return model
    return replace_fields(
        model, stages=tuple(_split_stage(stage, axis_name, size) for stage in model.stages)
    )


def channel_rules(model: PyTree, axis_name: str, size: int) -> Rules:
    """Returns how the leaves of `split_channels(model, axis_name, size)` are split.

    It is a table for `nfx.sharding.partition_specs`. The leaves of blocks that are not split, and
    all others, are whole.
    """
    blocks = list(_blocks(split_channels(model, axis_name, size)))
    by_output, by_input = (P(axis_name),), (P(axis_name, None),)
    rows = (
        ("conv0/(?:weight|gain|bias)", by_output, is_split),
        ("conv1b?/(?:weight|gain|bias)", by_output, is_split),
        ("conv2/weight", by_input, is_split),
        ("inner_attention/fc0/weight", by_input, is_split),
        ("inner_attention/fc1/(?:weight|bias)", by_output, is_split),
        ("attention/fc0/(?:weight|bias)", by_output, attention_is_split),
        ("attention/fc1/weight", by_input, attention_is_split),
    )
    # One rule for all blocks: Python keeps 512 compiled patterns, and deep networks have more.
    return (
        *(
            Rule(f"(?:{'|'.join(split)})/{leaf}", specs)
            for leaf, specs, splits in rows
            if (split := [path for path, block in blocks if splits(block)])
        ),
        Rule(".*", (P(),)),
    )


def whole_blocks(model: PyTree, size: int) -> dict[str, str]:
    """Returns the blocks that are not split over an axis of a size, by path, and why."""
    found = {path: _obstacle(block, size) for path, block in _blocks(model) if size > 1}
    return {path: obstacle for path, obstacle in found.items() if obstacle}


def is_split(block: NFBlock) -> bool:
    """Whether the channels of a block are split."""
    return getattr(block.conv2, "axis_name", None) is not None


def attention_is_split(block: NFBlock) -> bool:
    """Whether the hidden layer of the attention at the end of a block is split."""
    attention = block.attention
    return isinstance(attention, SqueezeExcite) and attention.fc1.axis_name is not None


def _blocks(model: PyTree) -> Iterator[tuple[str, NFBlock]]:
    """The blocks of a model with the paths of their leaves; a stack's are one."""
    for number, stage in enumerate(model.stages if isinstance(model, NFNet) else ()):
        for index, blocks in enumerate(stage.blocks):
            path = f"stages/{number}/blocks/{index}"
            stacked = isinstance(blocks, Stack)
            yield (f"{path}/block", blocks.block) if stacked else (path, blocks)


def _split_stage(stage: Stage, axis_name: str, size: int) -> Stage:
    split = lambda block: _split_block(block, axis_name, size)
    blocks = tuple(
        block.with_static(split) if isinstance(block, Stack) else split(block)
        for block in stage.blocks
    )
    return replace_fields(stage, blocks=blocks)


def _split_block(block: NFBlock, axis_name: str, size: int) -> NFBlock:
    if _obstacle(block, size):
        return block
    own_groups = lambda conv: conv and replace_fields(conv, groups=conv.groups // size)
    inner, attention = block.inner_attention, block.attention
    if isinstance(inner, SqueezeExcite):
        inner = replace_fields(inner, fc0=replace_fields(inner.fc0, axis_name=axis_name))
    if isinstance(attention, SqueezeExcite) and attention.fc0.bias.shape[-1] % size == 0:
        attention = replace_fields(
            attention, fc1=replace_fields(attention.fc1, axis_name=axis_name)
        )
    return replace_fields(
        block,
        conv1=own_groups(block.conv1),
        conv1b=own_groups(block.conv1b),
        conv2=replace_fields(block.conv2, axis_name=axis_name),
        inner_attention=inner,
        attention=attention,
    )


def _obstacle(block: NFBlock, size: int) -> str:
    """Why the channels of a block cannot be split over an axis of a size; "" if they can."""
    if not isinstance(block.conv2, WSConv2d):
        return "it is folded"
    if block.conv1.groups % size:
        return f"its groups ({block.conv1.groups}) do not divide over {size}"
    if not isinstance(block.inner_attention, SqueezeExcite | None):
        return "its attention mixes neighboring channels"
    return ""
