"""From an NF-ResNeXt to an NFNet, one change at a time: table 2 of the paper, on 28x28 pixels.

    python -m benchmarks.paper.ablations             # an hour on two cores; what is done is kept
    python -m benchmarks.paper.ablations --quick

The baseline has ResNet's widths, one 3x3 convolution a block and flipped images only; then the
widths, the second convolution and the augmentations of an NFNet are added in turn. The last row has
the augmentations with ResNet's widths.
"""

import dataclasses

from benchmarks.paper._claims import (
    cell,
    COLORS,
    mean_and_spread,
    paint,
    parse_options,
    train_all,
    wall_seconds,
    write_page,
)
from benchmarks.paper._training import NORMALIZER_FREE, Setting
from nfx.augment import Augmentation


# As (256, 512, 1024, 2048) and (256, 512, 1536, 1536) are of the real ones.
DEFAULT_WIDTHS, MODIFIED_WIDTHS = (32, 64, 128, 256), (32, 64, 192, 192)

MIXUP = Augmentation(mixup_alpha=0.2)
RANDAUGMENT = dataclasses.replace(
    MIXUP, randaugment_layers=2, randaugment_level=5, randaugment_rules="corrected"
)
CUTMIX = dataclasses.replace(RANDAUGMENT, cutmix=True)

# Widths, whether there is a second convolution, and what happens to images.
ROWS = {
    "baseline": (DEFAULT_WIDTHS, False, Augmentation()),
    "+ modified width": (MODIFIED_WIDTHS, False, Augmentation()),
    "+ second conv": (MODIFIED_WIDTHS, True, Augmentation()),
    "+ MixUp": (MODIFIED_WIDTHS, True, MIXUP),
    "+ RandAugment": (MODIFIED_WIDTHS, True, RANDAUGMENT),
    "+ CutMix": (MODIFIED_WIDTHS, True, CUTMIX),
    "default width + augmentations": (DEFAULT_WIDTHS, True, CUTMIX),
}


def main():
    options = parse_options(__doc__)
    shown = ["baseline", "+ CutMix"] if options.quick else list(ROWS)
    epochs = 1 if options.quick else 3
    settings = {name: _setting(*ROWS[name], epochs, options.quick) for name in shown}
    outcomes = train_all("ablations", settings, options)
    first = mean_and_spread(outcomes[shown[0]])[0]
    rows = [
        [name, cell(each), f"{100 * (mean_and_spread(each)[0] - first):+.1f}"]
        for name, each in outcomes.items()
    ]
    caption = f"Test accuracy in percent after {epochs} epochs, batches of 256."
    write_page(
        options,
        "ablations",
        "From an NF-ResNeXt to an NFNet",
        tables={caption: (["", "accuracy", "over the baseline"], rows)},
        figures={"accuracy": paint((6.4, 3), lambda figure: _draw(figure, outcomes))},
        seconds=wall_seconds(outcomes),
    )


def _setting(widths, two_convs, augmentation, epochs, quick):
    fields = {**NORMALIZER_FREE.fields, "widths": widths, "two_convs": two_convs}
    return Setting(
        network=NORMALIZER_FREE._replace(fields=fields),
        batch_size=64 if quick else 256,
        epochs=epochs,
        clipping=0.02,
        augmentation=augmentation,
    )


def _draw(figure, outcomes):
    axes = figure.subplots()
    means, spreads = zip(*map(mean_and_spread, outcomes.values()), strict=True)
    percent = lambda values: [100 * value for value in values]
    names = list(outcomes)
    axes.errorbar(percent(means), names, xerr=percent(spreads), fmt="o", color=COLORS[0], capsize=3)
    axes.invert_yaxis()
    axes.set(xlabel="test accuracy, %")


if __name__ == "__main__":
    main()
