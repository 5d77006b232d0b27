"""AGC's threshold, beside standard clipping, and which layers to clip: figure 2(b) and section 4.1.

    python -m benchmarks.paper.threshold             # an hour on two cores; what is done is kept
    python -m benchmarks.paper.threshold --quick

A normalizer-free network at two sizes of the batch, the learning rate in proportion: clipped
adaptively by a threshold of 0.0025 to 0.64; by the norm of the whole gradient (the paper's equation
6), over as wide a range; and with more or fewer layers left alone.
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
from benchmarks.paper._training import NORMALIZER_FREE, Setting


ADAPTIVE = (0.0025, 0.01, 0.04, 0.16, 0.64)
STANDARD = (0.0625, 0.25, 1.0, 4.0, 16.0)

# Patterns of leaves that are left alone.
LEFT_ALONE = {
    "clip all": (),
    "all but the classifier (the paper)": ("head/weight",),
    "all but the classifier and the stem": ("head/weight", "stem/.*"),
    "all but the last stage and what follows": ("head/.*", "final_conv/.*", "stages/3/.*"),
    "only the classifier": ("stem/.*", "stages/.*", "final_conv/.*"),
}


def main():
    options = parse_options(__doc__)
    sizes = (64,) if options.quick else (256, 1024)
    adaptive, standard = (ADAPTIVE[:1], STANDARD[:1]) if options.quick else (ADAPTIVE, STANDARD)
    groups = {} if options.quick else LEFT_ALONE
    common = {"network": NORMALIZER_FREE, "epochs": 1}
    settings = {
        ("adaptive", size, bound): Setting(**common, batch_size=size, clipping=bound)
        for size in sizes
        for bound in adaptive
    }
    settings |= {
        ("standard", size, bound): Setting(**common, batch_size=size, clip_norm=bound)
        for size in sizes
        for bound in standard
    }
    settings |= {
        ("layers", 1024, group): Setting(
            **common, batch_size=1024, clipping=0.04, unclipped=LEFT_ALONE[group]
        )
        for group in groups
    }
    outcomes = train_all("threshold", settings, options)
    sweep = lambda kind, bounds: (
        ["threshold", *(f"batch {size}" for size in sizes)],
        [[bound, *(cell(outcomes[kind, size, bound]) for size in sizes)] for bound in bounds],
    )
    layers = [[group, cell(outcomes["layers", 1024, group])] for group in groups]
    how = "Test accuracy in percent after one epoch"
    write_page(
        options,
        "threshold",
        "Accuracy by threshold",
        tables={
            f"{how}, adaptive clipping of all but the classifier.": sweep("adaptive", adaptive),
            f"{how}, clipping by the norm of the whole gradient.": sweep("standard", standard),
            f"{how}, adaptive clipping by 0.04 at a batch of 1024.": (
                ["what is clipped", ""],
                layers,
            ),
        },
        figures={"accuracy": paint((9, 3.6), lambda figure: _draw(figure, sizes, outcomes))},
        seconds=wall_seconds(outcomes),
    )


def _draw(figure, sizes, outcomes):
    names = {"adaptive": "AGC's threshold", "standard": "bound on the gradient's norm"}
    for axes, (kind, name) in zip(figure.subplots(1, 2, sharey=True), names.items(), strict=True):
        for size, color in zip(sizes, COLORS, strict=False):
            bounds = [label[2] for label in outcomes if label[:2] == (kind, size)]
            points = [outcomes[kind, size, bound] for bound in bounds]
            errorbar(axes, bounds, points, f"batch {size}", color)
        axes.set(xscale="log", xlabel=name, ylabel="test accuracy, %")
        axes.legend()


if __name__ == "__main__":
    main()
