"""The batch-normalized networks, one row each."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nfx.nn import ACTIVATIONS, Padding


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
        if not len(self.depths) == len(self.widths) == len(self.strides) == len(self.groups):
            raise ValueError(
                f"depths={self.depths}, widths={self.widths}, strides={self.strides} and "
                f"groups={self.groups} must have one entry a stage each."
            )
        numbers = (*self.depths, *self.widths, *self.groups, *self.stem_widths, self.stem_kernel)
        if min(numbers) < 1 or not {*self.strides, *self.stem_strides} <= {1, 2}:
            raise ValueError(
                f"depths={self.depths}, widths={self.widths}, groups={self.groups}, "
                f"stem_widths={self.stem_widths} and stem_kernel={self.stem_kernel} must be "
                f"positive, strides={self.strides} and stem_strides={self.stem_strides} 1 or 2."
            )
        if not (0 <= self.drop_rate < 1 and 0 <= self.stochastic_depth_rate < 1):
            raise ValueError(
                f"drop_rate={self.drop_rate} and stochastic_depth_rate="
                f"{self.stochastic_depth_rate} must be in [0, 1)."
            )
        if self.activation not in set(ACTIVATIONS) - {"glu"}:
            raise ValueError(
                f"activation={self.activation!r} must be one of "
                f"{', '.join(sorted(set(ACTIVATIONS) - {'glu'}))}."
            )
        if len(self.stem_widths) != len(self.stem_strides) or not self.stem_widths:
            raise ValueError(
                f"stem_widths={self.stem_widths} and stem_strides={self.stem_strides} must have "
                "one entry a convolution each, and there must be one."
            )


# The last is nfnet_micro's shape, with one 3x3 convolution a block.
BATCH_NORM_NETS: Mapping[str, BatchNormVariant] = MappingProxyType({
    "resnet50": BatchNormVariant(),
    "se_resnext50_d": BatchNormVariant(
        stem_widths=(32, 32, 64), stem_strides=(2, 1, 1), stem_kernel=3, expansion=0.5,
        groups=(32, 32, 32, 32), squeeze_excite_ratio=1 / 16, pooled_shortcut=True,
    ),
    "se_resnext_micro": BatchNormVariant(
        depths=(1, 2, 3, 1), widths=(32, 64, 96, 96), strides=(1, 2, 2, 1), stem_widths=(16, 16),
        stem_strides=(1, 2), stem_kernel=3, stem_pool=False, expansion=0.5, groups=(1, 2, 3, 3),
        squeeze_excite_ratio=0.5, pooled_shortcut=True, activation="gelu", train_size=28,
        test_size=28,
    ),
})  # fmt: skip
