"""The expected variance of the signal, block by block, and what follows from it."""

import math
from collections.abc import Sequence


# A number for each block, by stage.
OfBlocks = tuple[tuple[float, ...], ...]


def block_betas(depths: Sequence[int], alpha: float) -> OfBlocks:
    """Returns each block's `beta`: one over the expected standard deviation of its input.

    A block adds a residual branch of variance `alpha**2`. The first block of a stage has a
    projection shortcut that starts from the normalized signal, so it reads the variance that
    the stage before accumulated and resets it to one.

    Args:
        depths: Blocks in each stage.
        alpha: Scale of the residual branches.

    Returns:
        `beta` of each block, by stage.

    References:
        Brock, De & Smith (2021), arXiv:2101.08692, section 3; official code, `NFNet`.
    """
    betas: list[tuple[float, ...]] = []
    variance = 1.0
    for depth in depths:
        stage: list[float] = []
        for index in range(depth):
            stage.append(1 / math.sqrt(variance))
            variance = (1.0 if index == 0 else variance) + alpha**2
        betas.append(tuple(stage))
    return tuple(betas)


def block_stochastic_depth_rates(
    depths: Sequence[int], rate: float, *, reaches_rate: bool = False
) -> OfBlocks:
    """Returns each block's rate of stochastic depth, by stage: a ramp over all the blocks.

    Args:
        depths: Blocks in each stage.
        rate: What the ramp goes up to from zero.
        reaches_rate: Whether the last block gets the whole rate, as in timm, or stops one
            step short of it, as in the official code.
    """
    blocks = sum(depths)
    steps = max(1, blocks - 1) if reaches_rate else blocks
    starts = [sum(depths[:stage]) for stage in range(len(depths))]
    return tuple(
        tuple(rate * (start + index) / steps for index in range(depth))
        for start, depth in zip(starts, depths, strict=True)
    )
