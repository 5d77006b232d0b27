"""NFNet variants, as data.

Source: Brock et al. (2021), arXiv:2102.06171; sizes, widths and drop rates from the official
`nfnets/base.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from nfx.nn import Standardization


@dataclass(frozen=True, slots=True, kw_only=True)
class NFNetVariant:
    """Everything that distinguishes one NFNet from another. Every field is an override.

    The rows of the paper's ablation, starting from a variant: default widths are
    `widths=(256, 512, 1024, 2048)`; no second 3x3 convolution is `two_convs=False`; no
    squeeze-excite is `squeeze_excite_ratio=None`.

    Attributes:
        depths: Blocks in each stage.
        widths: Output channels of each stage.
        strides: Stride of the first block of each stage.
        stem_widths: Output channels of the stem's convolutions but the last, which has
            `widths[0] // 2`.
        stem_strides: Strides of the stem's convolutions, the last included. Their product
            is what the stem throws away.
        group_width: Channels in a group of the 3x3 convolutions.
        expansion: Width of a block's 3x3 convolutions over `big_width`'s channels, rounded
            down to whole groups.
        big_width: Whether that width derives from the block's outputs (or its inputs).
        two_convs: Whether a block has a second 3x3 convolution.
        squeeze_excite_ratio: Hidden width of squeeze-excite over its channels, or None.
        final_expansion: Channels of the last convolution over those of the last stage.
        activation: A name of `nfx.nn.ACTIVATIONS`.
        alpha: Scale of the residual branches.
        skip_gain: Initial value of the learned gain of each residual branch.
        standardization: `"official"` or `"timm"`: see `nfx.nn.WSConv2d`.
        stochastic_depth_rate: Drop probability that the blocks' ramp approaches.
        drop_rate: Dropout probability before the classifier.
        train_size: Side of training images, in pixels.
        test_size: Side of evaluation images, in pixels.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (256, 512, 1536, 1536)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_widths: tuple[int, ...] = (16, 32, 64)
    stem_strides: tuple[int, ...] = (2, 1, 1, 2)
    group_width: int = 128
    expansion: float = 0.5
    big_width: bool = True
    two_convs: bool = True
    squeeze_excite_ratio: float | None = 0.5
    final_expansion: int = 2
    activation: str = "gelu"
    alpha: float = 0.2
    skip_gain: float = 0.0
    standardization: Standardization = "official"
    stochastic_depth_rate: float = 0.25
    drop_rate: float
    train_size: int
    test_size: int

    def __post_init__(self) -> None:
        """Checks that the fields agree with each other.

        Raises:
            ValueError: Naming the fields that do not.
        """
        if not len(self.depths) == len(self.widths) == len(self.strides):
            raise ValueError(
                f"depths={self.depths}, widths={self.widths} and strides={self.strides} must "
                "have one entry a stage each."
            )
        counts = (*self.depths, *self.widths, *self.stem_widths, self.group_width)
        if not self.depths or min(counts) < 1 or self.final_expansion < 1:
            raise ValueError(
                f"depths={self.depths}, widths={self.widths}, stem_widths={self.stem_widths}, "
                f"group_width={self.group_width} and final_expansion={self.final_expansion} must "
                "be positive, and there must be a stage."
            )
        if not {*self.strides, *self.stem_strides} <= {1, 2}:
            raise ValueError(
                f"strides={self.strides} and stem_strides={self.stem_strides} must be 1 or 2: the "
                "shortcut of a strided block averages 2x2 pixels."
            )
        if not (0 <= self.drop_rate < 1 and 0 <= self.stochastic_depth_rate < 1):
            raise ValueError(
                f"drop_rate={self.drop_rate} and stochastic_depth_rate="
                f"{self.stochastic_depth_rate} must be in [0, 1)."
            )
        if len(self.stem_strides) != len(self.stem_widths) + 1:
            raise ValueError(
                f"stem_strides={self.stem_strides} must have one entry more than "
                f"stem_widths={self.stem_widths}: the stem's last width is widths[0] // 2."
            )

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Output channels of each of the stem's convolutions."""
        return (*self.stem_widths, self.widths[0] // 2)


# fmt: off
_F: Mapping[str, NFNetVariant] = {
    "nfnet_f0": NFNetVariant(depths=(1,  2,  6,  3), drop_rate=0.2, train_size=192, test_size=256),
    "nfnet_f1": NFNetVariant(depths=(2,  4, 12,  6), drop_rate=0.3, train_size=224, test_size=320),
    "nfnet_f2": NFNetVariant(depths=(3,  6, 18,  9), drop_rate=0.4, train_size=256, test_size=352),
    "nfnet_f3": NFNetVariant(depths=(4,  8, 24, 12), drop_rate=0.4, train_size=320, test_size=416),
    "nfnet_f4": NFNetVariant(depths=(5, 10, 30, 15), drop_rate=0.5, train_size=384, test_size=512),
    "nfnet_f5": NFNetVariant(depths=(6, 12, 36, 18), drop_rate=0.5, train_size=416, test_size=544),
    "nfnet_f6": NFNetVariant(depths=(7, 14, 42, 21), drop_rate=0.5, train_size=448, test_size=576),
    "nfnet_f7": NFNetVariant(depths=(8, 16, 48, 24), drop_rate=0.5, train_size=480, test_size=608),
}

# The F+ models are the F models with wider stages, and in nothing else.
_F_PLUS: Mapping[str, NFNetVariant] = {
    f"{name}+": replace(variant, widths=(384, 768, 2048, 2048)) for name, variant in _F.items()
}

# Not the paper's: the same architecture for small images, to learn and to test with. They throw
# less of the image away, and their branches start open: at `skip_gain` zero a gain must first
# grow under clipping, which takes longer than their whole training.
_SMALL: Mapping[str, NFNetVariant] = {
    "nfnet_nano": NFNetVariant(
        depths=(1, 1, 1, 1), widths=(32, 64, 96, 96), strides=(1, 2, 2, 1), stem_widths=(16,),
        stem_strides=(1, 2), group_width=16, skip_gain=1.0, drop_rate=0.2, train_size=28,
        test_size=28,
    ),
    "nfnet_micro": NFNetVariant(
        depths=(1, 2, 3, 1), widths=(32, 64, 96, 96), strides=(1, 2, 2, 1), stem_widths=(16,),
        stem_strides=(1, 2), group_width=16, skip_gain=1.0, drop_rate=0.2, train_size=28,
        test_size=28,
    ),
}
# fmt: on

NFNETS: Mapping[str, NFNetVariant] = MappingProxyType({**_F, **_F_PLUS, **_SMALL})
