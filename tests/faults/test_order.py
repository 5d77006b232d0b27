"""Which images a batch has, and what becomes of the order if a batch is left out."""

from itertools import islice

import numpy as np
import pytest

from nfx.data import Images, kept_batch, training_batches, training_indices


COUNT, BATCH = 26, 4
# The pixels of an image say which it is.
IMAGES = Images.from_arrays(
    np.arange(COUNT, dtype=np.uint8)[:, None, None, None], np.zeros(COUNT, np.int32), ["all"]
)


def loaded(first, count, **options):
    batches = training_batches(IMAGES, BATCH, seed=5, first_step=first, **options)
    return [batch.images.ravel().tolist() for batch in islice(batches, count)]


def test_the_images_of_a_batch_are_named_without_loading_them():
    found = [training_indices(COUNT, BATCH, seed=5, batch=number) for number in range(15)]
    assert found == loaded(0, 15)
    assert found[3] != found[9]


@pytest.mark.parametrize("left_out", [[0], [3], [2, 3, 7], [7, 2, 2]])
def test_a_batch_that_is_left_out_moves_those_after_it_up(left_out):
    expected = [batch for number, batch in enumerate(loaded(0, 14)) if number not in left_out][:10]
    assert loaded(0, 10, left_out=left_out) == expected
    assert loaded(4, 6, left_out=left_out) == expected[4:], "resuming needs the step alone"
    for number, batch in enumerate(expected):
        found = training_indices(COUNT, BATCH, seed=5, batch=number, left_out=left_out)
        assert found == batch


def test_parts_leave_out_the_same():
    parts = [loaded(1, 4, left_out=[2], part=part, parts=2) for part in (0, 1)]
    together = [first + second for first, second in zip(*parts, strict=True)]
    assert together == loaded(1, 4, left_out=[2])


def test_kept_batches_are_those_that_are_not_left_out():
    left_out = {1, 2, 5, 11}
    kept = [number for number in range(30) if number not in left_out]
    assert [kept_batch(number, left_out) for number in range(20)] == kept[:20]
