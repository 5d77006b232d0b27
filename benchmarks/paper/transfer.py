"""Transfer: what a linear probe reads off a backbone's features.

    python -m benchmarks.paper.transfer              # a quarter of an hour on two cores
    python -m benchmarks.paper.transfer --quick

Backbones are trained on Fashion-MNIST, and a logistic regression is fitted to their pooled features
of other images: handwritten digits (Alpaydin & Kaynak, 1998; 1,797 of 8x8 pixels, with
scikit-learn), of which few are given with their label. Beside it the same with a backbone that was
not trained, and with the pixels as they are.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.paper._claims import COLORS, load_data, paint, parse_options, write_page
from benchmarks.paper._training import BATCH_NORM, build, make_trainer, NORMALIZER_FREE, Setting
from nfx.models import initial_statistics


# Labelled digits of each class, and how often other ones are drawn.
SHOTS = (1, 2, 5, 10, 20, 50)
DRAWS = 10

BACKBONES = {
    "normalizer-free, AGC 0.02": (NORMALIZER_FREE, 0.02),
    "batch norm": (BATCH_NORM, None),
}


def main():
    options = parse_options(__doc__, seeds=3)
    began = time.monotonic()
    images, labels = _digits()
    features = {"pixels": [images.reshape(len(images), -1)]}
    for name, (network, clipping) in BACKBONES.items():
        train = make_trainer(
            Setting(network=network, clipping=clipping, epochs=3), load_data(options)
        )
        trained = [train(seed)[1] for seed in options.seeds]
        features[name] = [pooled(state.model, state.statistics, images) for state in trained]
    untrained = [build(NORMALIZER_FREE, jax.random.key(seed)) for seed in options.seeds]
    features["normalizer-free, not trained"] = [pooled(model, None, images) for model in untrained]
    shots = SHOTS[:2] if options.quick else SHOTS
    accuracies = {
        name: [[_probe(each, labels, count, options.quick) for each in several] for count in shots]
        for name, several in features.items()
    }
    rows = [
        [count, *(_cell(each[place]) for each in accuracies.values())]
        for place, count in enumerate(shots)
    ]
    write_page(
        options,
        "transfer",
        "Linear probes of backbones",
        tables={
            "Accuracy in percent on the digits without label, mean and standard deviation over "
            f"backbones and {DRAWS} draws of the labelled ones.": (
                ["labelled digits a class", *accuracies],
                rows,
            )
        },
        figures={"accuracy": paint((6, 3.8), lambda figure: _draw(figure, shots, accuracies))},
        seconds=time.monotonic() - began,
        packages=("jax", "nfx", "scikit-learn"),
    )


def _digits():
    """Digits as white on black, 28x28, like the clothes, normalized; and their classes."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = jnp.asarray(pixels, jnp.float32).reshape(-1, 8, 8) / 16
    resized = jax.image.resize(pixels, (len(pixels), 28, 28), "bilinear")[..., None]
    return np.asarray((resized - 0.286) / 0.353), labels


def pooled(model, statistics, images):
    """The features before the classifier."""
    if initial_statistics(model) is None:
        read = lambda images: jax.vmap(lambda image: model.features(image).pooled)(images)
    else:
        read = lambda images: model.features(images, statistics)[0].pooled
    read = jax.jit(read)
    return np.concatenate([read(part) for part in np.array_split(images, 3)])


def _probe(features, labels, count, quick):
    """Accuracies of probes that were fitted to `count` examples of each class, by draw."""
    accuracies = []
    for draw in range(1 if quick else DRAWS):
        order = np.random.default_rng(draw).permutation(len(labels))
        shown = np.concatenate([order[labels[order] == digit][:count] for digit in range(10)])
        hidden = np.setdiff1d(order, shown)
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probe.fit(features[shown], labels[shown])
        accuracies.append(probe.score(features[hidden], labels[hidden]))
    return accuracies


def _cell(accuracies):
    percent = 100 * np.asarray(accuracies)
    return f"{percent.mean():.1f} ± {percent.std():.1f}"


def _draw(figure, shots, accuracies):
    axes = figure.subplots()
    for (name, several), color in zip(accuracies.items(), COLORS, strict=False):
        percent = [100 * np.asarray(each) for each in several]
        means, spreads = [each.mean() for each in percent], [each.std() for each in percent]
        axes.errorbar(shots, means, spreads, label=name, color=color, marker="o", ms=4, capsize=3)
    axes.set(xscale="log", xlabel="labelled digits a class", ylabel="accuracy, %")
    axes.set_xticks(shots, list(map(str, shots)))
    axes.minorticks_off()
    axes.legend(fontsize=8)


if __name__ == "__main__":
    main()
