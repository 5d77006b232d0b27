"""AGC and the size of the batch: figure 2(a) of the paper, on 28x28 pixels; and small batches.

    python -m benchmarks.paper.batch_size            # an hour on two cores; what is done is kept
    python -m benchmarks.paper.batch_size --quick

A batch-normalized network, and a normalizer-free one of its shape without and with adaptive
gradient clipping. The learning rate grows in proportion to the batch, and everybody sees every
image as often: three times, at batches of 64 to 4096; half of them once, at batches of 1 to 16.
"""

from benchmarks.paper._claims import (
    cell,
    COLORS,
    errorbar,
    paint,
    parse_options,
    train_all,
    wall_seconds,
    write_page,
)
from benchmarks.paper._training import BATCH_NORM, NORMALIZER_FREE, Setting


METHODS = {
    "batch norm": {"network": BATCH_NORM},
    "normalizer-free": {"network": NORMALIZER_FREE},
    "normalizer-free, AGC 0.02": {"network": NORMALIZER_FREE, "clipping": 0.02},
}


# Passes over the images by size of the batch.
LARGE = {64: 3, 256: 3, 1024: 3, 4096: 3}
SMALL = {1: 0.5, 4: 0.5, 16: 0.5}


def main():
    options = parse_options(__doc__)
    ranges = {"quick": {64: 1}} if options.quick else {"large": LARGE, "small": SMALL}
    settings = {
        (method, size): Setting(**how, batch_size=size, epochs=epochs)
        for sizes in ranges.values()
        for size, epochs in sizes.items()
        for method, how in METHODS.items()
    }
    outcomes = train_all("batch_size", settings, options)
    write_page(
        options,
        "batch_size",
        "Accuracy by size of the batch",
        tables={
            f"Test accuracy in percent, mean and standard deviation: {name} batches.": (
                ["batch", "epochs", *METHODS],
                [
                    [size, epochs, *(cell(outcomes[method, size]) for method in METHODS)]
                    for size, epochs in sizes.items()
                ],
            )
            for name, sizes in ranges.items()
        },
        figures={
            name: paint((6.4, 4), lambda figure, sizes=sizes: _draw(figure, list(sizes), outcomes))
            for name, sizes in ranges.items()
        },
        seconds=wall_seconds(outcomes),
    )


def _draw(figure, sizes, outcomes):
    axes = figure.subplots()
    for method, color in zip(METHODS, COLORS, strict=False):
        errorbar(axes, sizes, [outcomes[method, size] for size in sizes], method, color)
    axes.set(xscale="log", xlabel="batch size", ylabel="test accuracy, %")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.minorticks_off()
    axes.legend()


if __name__ == "__main__":
    main()
