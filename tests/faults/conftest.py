import math

import jax
import pytest

from benchmarks.faults import make_images
from nfx.recipes import _feed, _run
from nfx.sharding import make_mesh, parse_mesh_shape


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of small images: 240 to train on, 60 to test with."""
    root = tmp_path_factory.mktemp("images")
    make_images(root)
    return root


@pytest.fixture(scope="module")
def quick_runs():
    """Meshes are of the first of the eight devices; evaluations take few images at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "read_mesh", mesh_of_the_first)
        patch.setattr(_feed, "_IMAGES_PER_DEVICE", 8)
        yield


def mesh_of_the_first(text):
    shape = parse_mesh_shape(text, jax.device_count())
    return make_mesh(shape, jax.devices()[: math.prod(shape.values())])
