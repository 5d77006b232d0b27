"""AGC and the size of the batch: figure 2(a) of the paper, on 28x28 pixels.

    python -m benchmarks.paper.batch_size            # an hour on two cores; what is done is kept
    python -m benchmarks.paper.batch_size --quick

A batch-normalized network, and a normalizer-free one of its shape without and with adaptive
gradient clipping, at batches of 64 to 4096. The learning rate grows in proportion to the batch, and
everybody sees every image three times.
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


def main():
    options = parse_options(__doc__)
    sizes, epochs = ((64,), 1) if options.quick else ((64, 256, 1024, 4096), 3)
    look("batch_size", "Accuracy by size of the batch", sizes, epochs, options)


def look(name, title, sizes, epochs, options):
    """Trains by all methods at some sizes of the batch, and writes the page."""
    settings = {
        (method, size): Setting(**how, batch_size=size, epochs=epochs)
        for size in sizes
        for method, how in METHODS.items()
    }
    outcomes = train_all(name, settings, options)
    caption = f"Test accuracy in percent, mean and standard deviation, after {epochs} epochs."
    rows = [[size, *(cell(outcomes[method, size]) for method in METHODS)] for size in sizes]
    write_page(
        options,
        name,
        title,
        tables={caption: (["batch", *METHODS], rows)},
        figures={"accuracy": paint((6.4, 4), lambda figure: _draw(figure, sizes, outcomes))},
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
