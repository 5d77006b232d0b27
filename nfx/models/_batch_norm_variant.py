"""What distinguishes one batch-normalized network from another, as data."""

from dataclasses import dataclass

from nfx.models._checks import check_fields
from nfx.nn import ELEMENTWISE, Padding


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNormVariant:
    """Everything that distinguishes one batch-normalized network from another.

    Attributes:
        depths: Blocks in each stage.
        widths: Output channels of each stage.
        strides: Stride of the first block of each stage.
        stem_widths: Output channels of the stem's convolutions.
        stem_strides: Their strides.
        stem_kernel: Side of their kernels.
        stem_pool: Whether a 3x3 max-pool of stride 2 ends the stem.
        expansion: Width of a block's 3x3 convolution over its outputs.
        groups: Groups of that convolution, in each stage.
        squeeze_excite_ratio: Hidden width of squeeze-excite over its channels, or None.
        pooled_shortcut: Whether a shortcut strides by average pooling (ResNet-D).
        activation: A name of `nfx.nn.ACTIVATIONS`, used without its gamma.
        padding: See `nfx.nn.window_padding`.
        stochastic_depth_rate: Drop probability that the blocks' ramp approaches.
        drop_rate: Dropout probability before the classifier.
        train_size: Side of training images, in pixels.
        test_size: Side of evaluation images, in pixels.

    References:
        He et al. (2015), arXiv:1512.03385; Xie et al. (2017), arXiv:1611.05431 (ResNeXt);
        Hu et al. (2018), arXiv:1709.01507; He et al. (2019), arXiv:1812.01187 (ResNet-D).
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_widths: tuple[int, ...] = (64,)
    stem_strides: tuple[int, ...] = (2,)
    stem_kernel: int = 7
    stem_pool: bool = True
    expansion: float = 0.25
    groups: tuple[int, ...] = (1, 1, 1, 1)
    squeeze_excite_ratio: float | None = None
    pooled_shortcut: bool = False
    activation: str = "relu"
    padding: Padding = "SAME"
    stochastic_depth_rate: float = 0.0
    drop_rate: float = 0.0
    train_size: int = 224
    test_size: int = 224

    def __post_init__(self) -> None:
        """Checks that the fields agree with each other.

        Raises:
            ValueError: Naming those that do not.
        """
        check_fields(self, _rules(self))


def _rules(v: BatchNormVariant) -> dict[str, bool]:
    """What has to hold for the numbers of a variant, by what is said if it does not."""
    numbers = (*v.depths, *v.widths, *v.groups, *v.stem_widths, v.stem_kernel, v.expansion)
    return {
        f"depths={v.depths}, widths={v.widths}, strides={v.strides} and groups={v.groups} must "
        "have one entry a stage each, and there must be one":
            0 < len(v.depths) == len(v.widths) == len(v.strides) == len(v.groups),
        f"stem_widths={v.stem_widths} and stem_strides={v.stem_strides} must have one entry a "
        "convolution each, and there must be one":
            0 < len(v.stem_widths) == len(v.stem_strides),
        f"depths={v.depths}, widths={v.widths}, groups={v.groups}, stem_widths={v.stem_widths}, "
        f"stem_kernel={v.stem_kernel}, expansion={v.expansion} and "
        f"squeeze_excite_ratio={v.squeeze_excite_ratio} must be positive":
            min(numbers) > 0 and (v.squeeze_excite_ratio is None or v.squeeze_excite_ratio > 0),
        f"strides={v.strides} and stem_strides={v.stem_strides} must be 1 or 2":
            {*v.strides, *v.stem_strides} <= {1, 2},
        f"drop_rate={v.drop_rate} and stochastic_depth_rate={v.stochastic_depth_rate} must be in "
        "[0, 1)":
            0 <= v.drop_rate < 1 and 0 <= v.stochastic_depth_rate < 1,
        f"activation={v.activation!r} must be one of {', '.join(ELEMENTWISE)}":
            v.activation in ELEMENTWISE,
    }  # fmt: skip
