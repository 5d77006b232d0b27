"""Batches of 1 to 16: what needs no batch can do without.

    python -m benchmarks.paper.small_batches         # an hour on two cores; what is done is kept
    python -m benchmarks.paper.small_batches --quick

As `benchmarks.paper.batch_size`, with few images at a time, and half of the images once.
"""

from benchmarks.paper._claims import parse_options
from benchmarks.paper.batch_size import look


def main():
    options = parse_options(__doc__)
    sizes, epochs = ((16,), 1) if options.quick else ((1, 4, 16), 0.5)
    look("small_batches", "Accuracy of small batches", sizes, epochs, options)


if __name__ == "__main__":
    main()
