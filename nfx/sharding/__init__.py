"""Meshes, where arrays live on them, and what devices tell each other."""

from nfx.sharding._batches import (
    group_blocks as group_blocks,
    load_parts as load_parts,
    place_batch as place_batch,
    place_whole as place_whole,
    prefetch_batches as prefetch_batches,
)
from nfx.sharding._collect import collect as collect, Communication as Communication
from nfx.sharding._mesh import (
    abstract_mesh as abstract_mesh,
    AnyMesh as AnyMesh,
    BATCH_AXES as BATCH_AXES,
    batch_axes as batch_axes,
    batch_shards as batch_shards,
    batch_spec as batch_spec,
    check_batch_divides as check_batch_divides,
    constrain as constrain,
    format_mesh as format_mesh,
    local_example_indices as local_example_indices,
    make_mesh as make_mesh,
    parse_mesh_shape as parse_mesh_shape,
    read_mesh as read_mesh,
    replicated as replicated,
)
from nfx.sharding._rules import (
    FULLY_SHARDED as FULLY_SHARDED,
    partition_specs as partition_specs,
    REPLICATED as REPLICATED,
    Rule as Rule,
    Rules as Rules,
    shards as shards,
    spec_axes as spec_axes,
)
