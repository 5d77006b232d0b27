import math

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

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
def quick_runs(tmp_path_factory):
    """What one run compiles, the others load; meshes are of the first of the eight devices."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compilations")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in names}
    set_all(names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "read_mesh", mesh_of_the_first)
        patch.setattr(_feed, "_IMAGES_PER_DEVICE", 8)
        yield
    set_all(before)


def set_all(settings):
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def mesh_of_the_first(text):
    shape = parse_mesh_shape(text, jax.device_count())
    return make_mesh(shape, jax.devices()[: math.prod(shape.values())])
