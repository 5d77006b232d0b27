"""Signal propagation plots: figures 1 to 3 of arXiv:2101.08692.

    python -m benchmarks.paper.signal_propagation    # ten minutes on two cores
    python -m benchmarks.paper.signal_propagation --quick

First NF-ResNet50 and NFNet-F0 as they are initialized, with open branches, beside what their betas
are derived from. Then a small network in five ways, before and after it is trained:
batch-normalized; normalizer-free; without weight standardization; without the activations' gamma;
without betas.
"""

import time
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.paper._claims import load_data, parse_options, write_page
from benchmarks.paper._fashion import MEAN, STD
from benchmarks.paper._training import BATCH_NORM, build, make_trainer, NORMALIZER_FREE, Setting
from nfx import create_model
from nfx.analysis import (
    block_places,
    expected_signal,
    plot_signal,
    signal_propagation,
    SignalPropagation,
)
from nfx.augment import normalize
from nfx.graph import replace_fields
from nfx.models import BatchNormBlock, NFBlock
from nfx.nn import Conv2d, WSConv2d


# Name, side of the images, fields of the variant. NFNet-F0 is looked at twice: its shortcuts pool.
PUBLISHED = {
    "NF-ResNet50": ("nf_resnet50", 224, {}),
    "NFNet-F0, strided shortcuts": ("nfnet_f0", 384, {"strided_shortcut": True}),
    "NFNet-F0, pooled shortcuts": ("nfnet_f0", 384, {}),
}


def map_modules(kind, rewrite, model):
    """Rewrites the modules of a kind."""
    is_kind = lambda node: isinstance(node, kind)
    return jax.tree.map(
        lambda node: rewrite(node) if is_kind(node) else node, model, is_leaf=is_kind
    )


def without_standardization(model):
    """Convolves with the kernels as they are drawn, of variance one over their fan-in."""
    plain = lambda conv: Conv2d(
        conv.weight, conv.bias, stride=conv.stride, groups=conv.groups, padding=conv.padding
    )
    return map_modules(WSConv2d, plain, model)


def without_gamma(model):
    """Leaves activations as they are."""
    model = map_modules(NFBlock, partial(replace_fields, gamma=1.0), model)
    return replace_fields(model, gamma=1.0, stem_gamma=1.0)


def without_beta(model):
    """Leaves the inputs of branches as large as they are."""
    return map_modules(NFBlock, partial(replace_fields, beta=1.0), model)


def with_open_branches(model):
    """Lets the last normalization of each branch through: it starts at zero."""
    gain = lambda block: block.conv2.norm.gain
    return map_modules(
        BatchNormBlock, lambda block: eqx.tree_at(gain, block, jnp.ones_like(gain(block))), model
    )


NETWORKS = {
    "batch norm": BATCH_NORM._replace(rewrite=with_open_branches),
    "normalizer-free": NORMALIZER_FREE,
    "without standardization": NORMALIZER_FREE._replace(rewrite=without_standardization),
    "without gamma": NORMALIZER_FREE._replace(rewrite=without_gamma),
    "without beta": NORMALIZER_FREE._replace(rewrite=without_beta),
}


class Trained(NamedTuple):
    """A small network before and after its training."""

    initialized: SignalPropagation
    trained: SignalPropagation
    accuracy: float
    finite: bool


def main():
    options = parse_options(__doc__, seeds=1)
    began = time.monotonic()
    published = {} if options.quick else dict(PUBLISHED)
    rows = [_measure_published(name, *model) for name, model in published.items()]
    networks = dict(list(NETWORKS.items())[:2]) if options.quick else NETWORKS
    trained = {
        name: _before_and_after(name, network, options) for name, network in networks.items()
    }
    places = block_places(build(NORMALIZER_FREE, jax.random.key(0)))
    figures = {
        when: plot_signal({name: getattr(each, when) for name, each in trained.items()}, places)
        for when in ("initialized", "trained")
    }
    figures |= {
        word: plot_signal({name: signal}, places, expected={"expected": expected})
        for word, name, signal, places, expected, _ in rows
    }
    worst = [[name, f"{low:.3f} to {high:.3f}"] for _, name, _, _, _, (low, high) in rows]
    accuracies = [
        [name, f"{100 * each.accuracy:.1f}" if each.finite else "diverged"]
        for name, each in trained.items()
    ]
    write_page(
        options,
        "signal_propagation",
        "Signal propagation",
        tables={
            "Measured variance after each block over what the ledger expects, 8 images of noise.": (
                ["network", "least and largest of all blocks"],
                worst,
            ),
            "Test accuracy in percent of the small networks after 2 epochs.": (
                ["network", "accuracy"],
                accuracies,
            ),
        },
        figures=figures,
        seconds=time.monotonic() - began,
    )


def _measure_published(name, model_name, size, fields):
    """Measures a published network as it is initialized, but with open branches."""
    key, image_key = jax.random.split(jax.random.key(0))
    model = jax.jit(lambda: create_model(model_name, key=key, skip_gain=1.0, **fields))()
    images = jax.random.normal(image_key, (8, size, size, 3))
    signal = jax.device_get(jax.jit(signal_propagation)(model, images))
    expected = np.asarray(expected_signal(model))
    ratios = signal.variance[1:] / expected[1:]
    word = name.lower().replace(",", "").replace(" ", "-")
    print(name, np.round(ratios, 3), flush=True)
    return word, name, signal, block_places(model), expected, (ratios.min(), ratios.max())


def _before_and_after(name, network, options):
    """Measures a small network on test images, as it is initialized and after its training."""
    data = load_data(options)
    images = normalize(jnp.asarray(data.test.images[:256]), MEAN, STD)
    clipping = 0.02 if network.name == NORMALIZER_FREE.name else None
    setting = Setting(network=network, clipping=clipping, batch_size=256, epochs=2)
    outcome, state = make_trainer(setting, data)(0)
    before = build(network, jax.random.split(jax.random.key(0))[0])
    measure = jax.jit(signal_propagation)
    print(name, outcome, flush=True)
    initialized, trained = (
        jax.device_get(measure(model, images)) for model in (before, state.model)
    )
    return Trained(initialized, trained, outcome.accuracy, outcome.finite)


if __name__ == "__main__":
    main()
