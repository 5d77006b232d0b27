"""Parameters and FLOPs beside the published ones, and two architectures side by side.

    python -m benchmarks.paper.sizes                 # seconds: nothing is computed but shapes

The tables are read off the models' graphs: nfx's own table of sizes is pinned to the graphs by a
test.
"""

import time

import jax

from benchmarks.paper._claims import paint, parse_options, write_page
from nfx import create_model
from nfx.models import model_card, model_sizes, model_variant


# Table 1 and the official README: millions of parameters, billions of FLOPs at the test size.
PUBLISHED = {
    "nfnet_f0": (71.5, 12.38),
    "nfnet_f1": (132.6, 35.54),
    "nfnet_f2": (193.8, 62.59),
    "nfnet_f3": (254.9, 114.76),
    "nfnet_f4": (316.1, 215.24),
    "nfnet_f5": (377.2, 289.76),
    "nfnet_f6": (438.4, 377.28),
}

COMPARED = {"SE-ResNeXt-50": "se_resnext50_d", "NFNet-F0": "nfnet_f0"}


def main():
    options = parse_options(__doc__, seeds=0)
    began = time.monotonic()
    sizes = model_sizes()
    rows = [
        [
            name,
            *_beside(sizes[name].parameters / 1e6, published[0], 1),
            *_beside(sizes[name].test_macs / 1e9, published[1], 2),
            model_variant(name).test_size,
            model_card(name).top1,
        ]
        for name, published in PUBLISHED.items()
    ]
    header = [
        "model",
        "params, M",
        "published",
        "FLOPs, B",
        "published",
        "pixels",
        "top-1, published",
    ]
    architectures = {label: _architecture(name) for label, name in COMPARED.items()}
    parts = dict.fromkeys(part for each in architectures.values() for part in each)
    compared = [[part, *(each.get(part, "") for each in architectures.values())] for part in parts]
    write_page(
        options,
        "sizes",
        "Sizes and costs",
        tables={
            "Multiply-accumulates on one image, which the papers call FLOPs.": (header, rows),
            "Each block with its width and its groups; of a stage, the first of its blocks.": (
                ["", *architectures],
                compared,
            ),
        },
        figures={"cost": paint((6.4, 3.6), _draw)},
        seconds=time.monotonic() - began,
    )


def _beside(counted, published, digits):
    return f"{counted:.{digits}f}", f"{published:.{digits}f}"


def _architecture(name):
    """The parts of a network, in words."""
    model = jax.eval_shape(lambda: create_model(name, key=jax.random.key(0)))
    stem = [_convolution(layer) for layer in model.stem]
    parts = {"stem": ", ".join(stem) + (", 3x3 max-pool" if model.stem_pool else "")}
    for number, stage in enumerate(model.stages, 1):
        parts[f"stage {number}"] = f"{len(stage.blocks)} x [{_block(stage.blocks[0])}]"
    final = getattr(model, "final_conv", None)
    parts["end"] = "mean" if final is None else f"{_convolution(final)}, mean"
    parts["parameters, M"] = f"{model_sizes()[name].parameters / 1e6:.1f}"
    parts["FLOPs, B"] = (
        f"{model_sizes()[name].train_macs / 1e9:.2f} at {model_variant(name).train_size} pixels"
    )
    return parts


def _block(block):
    layers = [block.conv0, block.conv1, getattr(block, "conv1b", None), block.conv2]
    attention = "" if block.attention is None else ", SE"
    return ", ".join(_convolution(layer) for layer in layers if layer is not None) + attention


def _convolution(layer):
    conv = getattr(layer, "conv", layer)
    side, _, inputs, outputs = conv.weight.shape
    groups = f" in groups of {inputs}" if conv.groups > 1 else ""
    stride = f" / {conv.stride}" if conv.stride > 1 else ""
    return f"{side}x{side} {outputs}{groups}{stride}"


def _draw(figure):
    axes = figure.subplots()
    sizes = model_sizes()
    for name, (_, published) in PUBLISHED.items():
        counted = sizes[name].test_macs / 1e9
        axes.plot(counted, model_card(name).top1, "o", color="#0072B2")
        axes.plot(published, model_card(name).top1, "x", color="#D55E00", ms=9)
        label = name.removeprefix("nfnet_").upper()
        axes.annotate(label, (counted, model_card(name).top1), (6, -10), textcoords="offset points")
    axes.set(xscale="log", xlabel="billions of multiply-accumulates: counted o, published x")
    axes.set_ylabel("top-1 on ImageNet, published, %")


if __name__ == "__main__":
    main()
