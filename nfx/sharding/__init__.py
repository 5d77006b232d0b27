"""Meshes and placement."""

from nfx.sharding._mesh import (
    batch_axes as batch_axes,
    batch_shards as batch_shards,
    batch_spec as batch_spec,
    check_batch_divides as check_batch_divides,
    local_example_indices as local_example_indices,
    make_mesh as make_mesh,
    MESH_AXES as MESH_AXES,
    parse_mesh_shape as parse_mesh_shape,
    place_batch as place_batch,
    replicated as replicated,
)
