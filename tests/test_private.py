"""Gradients of examples for differentially private training, on devices that split the batch."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

import nfx
from nfx.aot import collectives
from nfx.sharding import make_mesh


pytest.importorskip("jax_privacy", reason="pip install --group paper")

from benchmarks.paper import private


# Of jax-privacy 2.0 with the newest optax.
pytestmark = pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")


@pytest.fixture(scope="module")
def examples():
    model = nfx.create_model("nfnet_nano", num_classes=10, in_channels=1, key=jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (16, 14, 14, 1), dtype=np.uint8)
    return model, images, np.arange(16, dtype=np.int32) % 10


@pytest.fixture(scope="module")
def compiled(examples):
    """The private sum over eight devices, and its arguments."""
    model, images, labels = examples
    mesh = make_mesh({"data": 8})
    padding = np.arange(16) >= 14
    batch = jax.device_put((images, labels, padding), NamedSharding(mesh, P("data")))
    function = jax.jit(private.make_private_gradients(mesh))
    return function.lower(model, *batch).compile(), (model, *batch)


def test_they_are_those_of_a_loop_without_padding(compiled, examples):
    function, arguments = compiled
    model, images, labels = examples
    gradients, losses = function(*arguments)
    assert losses.shape == (16,)
    expected = private.loop(model, images[:14], labels[:14])
    assert private.largest_error(gradients, expected) < 1e-5


def test_the_comparison_sees_one_example_more_or_less(examples):
    model, images, labels = examples
    one, two, three = private.loop(model, images[:3], labels[:3])
    summed = jax.tree.map(lambda *leaves: sum(leaves), one, two, three)
    assert private.largest_error(summed, [one, two, three]) < 1e-6
    assert private.largest_error(summed, [one, two]) > 1e-2


def test_they_stay_on_their_device_and_the_sum_alone_is_reduced(compiled):
    function, arguments = compiled
    (reduced,) = collectives(function.as_text())
    assert reduced.kind == "all-reduce"
    assert reduced.bytes == 4 * sum(leaf.size for leaf in jax.tree.leaves(arguments[0]))
