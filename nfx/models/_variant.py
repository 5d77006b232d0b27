"""What distinguishes one normalizer-free network from another, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from nfx.models._checks import check_fields
from nfx.nn import ACTIVATIONS, ELEMENTWISE, Padding, round_channels, Standardization


Family = Literal["NFNet", "NF-ResNet", "NF-RegNet"]

GammaPlace = Literal["activation", "kernel"]

Lineage = Literal["official", "timm"]

# Where the implementations in use disagree with each other: fields of `NFNetVariant` by lineage.
# "timm dm" is timm's port of the official NFNets. Any of these is an override of any model.
CONVENTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "official": {
        "standardization":  "official",    # eps floors the variance
        "padding":          "SAME",
        "gelu":             "tanh",
        "gamma_in":         "activation",
        "skip_gain":        0.0,           # learned, one a block
        "stochastic_depth_rule": "official",  # i / N of the rate; survivors as they are
        "channel_multiple": 1,             # truncates
        "attention_init":   "official",    # truncated normal
    },
    "timm dm": {
        "standardization":  "timm",        # eps is added to the variance
        "padding":          "SAME",
        "gelu":             "erf",
        "gamma_in":         "activation",
        "skip_gain":        0.0,
        "stochastic_depth_rule": "timm",   # i / (N - 1) of the rate; survivors divided by keep
        "channel_multiple": 8,             # rounds to the nearest
        "attention_init":   "timm",        # normal
    },
    "timm": {
        "standardization":  "timm",
        "padding":          "symmetric",
        "gelu":             "erf",
        "gamma_in":         "kernel",
        "skip_gain":        None,          # none; the last kernel's gain starts at zero
        "stochastic_depth_rule": "timm",
        "channel_multiple": 8,
        "attention_init":   "timm",
    },
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NFNetVariant:
    """Everything that distinguishes one normalizer-free network from another.

    Every field is an override of `create_model`. The rows of the paper's ablation, starting
    from an NFNet: default widths are `widths=(256, 512, 1024, 2048)`; no second 3x3
    convolution is `two_convs=False`; no squeeze-excite is `squeeze_excite_ratio=None`.

    Attributes:
        family: Whose architecture it is; the official names of its parameters follow from it.
        depths: Blocks in each stage.
        widths: Output channels of each stage, before they are rounded to `channel_multiple`.
        strides: Stride of the first block of each stage.
        stem_widths: Output channels of the stem's convolutions but the last.
        stem_width: Those of the last; None is half of `widths[0]`.
        stem_strides: Strides of the stem's convolutions, the last included. Their product
            is what the stem throws away.
        stem_kernel: Side of the stem's kernels.
        stem_pool: Whether a 3x3 max-pool of stride 2 ends the stem.
        group_width: Channels in a group of the 3x3 convolutions; None is a single group.
        expansion: Width of a block's 3x3 convolutions over `big_width`'s channels, rounded
            down to whole groups.
        first_expansion: The same for the first block of all, where it differs.
        big_width: Whether that width derives from the block's outputs (or its inputs).
        two_convs: Whether a block has a second 3x3 convolution.
        squeeze_excite_ratio: Hidden width of squeeze-excite over its channels, or None.
        efficient_channel_attention: Whether blocks have that attention instead.
        attention_after: The convolution of a block that its attention follows.
        final_expansion: Channels of the last convolution over those of the last stage; None
            is no last convolution.
        head_std: Standard deviation of the classifier's initial weights.
        activation: A name of `nfx.nn.ACTIVATIONS`.
        gelu: Whether `activation="gelu"` is its approximation by tanh or the exact one by erf.
        gamma_in: What multiplies by the activation's gamma: itself, or every kernel.
        alpha: Scale of the residual branches.
        skip_gain: Initial value of the learned gain of each residual branch. None is no such
            gain; the gain of a branch's last kernel then starts at zero.
        standardization: `"official"` or `"timm"`: see `nfx.nn.WSConv2d`.
        padding: `"SAME"` or `"symmetric"`: see `nfx.nn.window_padding`.
        strided_shortcut: Whether a shortcut strides by its convolution, and not by pooling.
        channel_multiple: What channel counts are rounded to: see `nfx.nn.round_channels`.
        attention_init: Of squeeze-excite: a truncated normal as the official code has it, or
            a normal as timm.
        stochastic_depth_rule: Whose ramp of rates, and whose scaling of what is not dropped.
        stochastic_depth_rate: Drop probability that the ramp approaches or reaches.
        drop_rate: Dropout probability before the classifier.
        train_size: Side of training images, in pixels.
        test_size: Side of evaluation images, in pixels.
    """

    family: Family = "NFNet"
    depths: tuple[int, ...]
    widths: tuple[int, ...] = (256, 512, 1536, 1536)
    strides: tuple[int, ...] = (1, 2, 2, 2)
    stem_widths: tuple[int, ...] = (16, 32, 64)
    stem_width: int | None = None
    stem_strides: tuple[int, ...] = (2, 1, 1, 2)
    stem_kernel: int = 3
    stem_pool: bool = False
    group_width: int | None = 128
    expansion: float = 0.5
    first_expansion: float | None = None
    big_width: bool = True
    two_convs: bool = True
    squeeze_excite_ratio: float | None = 0.5
    efficient_channel_attention: bool = False
    attention_after: Literal["conv1", "conv2"] = "conv2"
    final_expansion: float | None = 2.0
    head_std: float = 0.01
    activation: str = "gelu"
    gelu: Literal["tanh", "erf"] = "tanh"
    gamma_in: GammaPlace = "activation"
    alpha: float = 0.2
    skip_gain: float | None = 0.0
    standardization: Standardization = "official"
    padding: Padding = "SAME"
    strided_shortcut: bool = False
    channel_multiple: int = 1
    attention_init: Lineage = "official"
    stochastic_depth_rule: Lineage = "official"
    stochastic_depth_rate: float = 0.25
    drop_rate: float
    train_size: int
    test_size: int

    def __post_init__(self) -> None:
        """Checks that every field is one that can be built, and that they agree.

        Raises:
            ValueError: Listing what does not.
        """
        check_fields(self, _rules(self))

    @property
    def channels(self) -> tuple[int, ...]:
        """Output channels of each stage."""
        return tuple(self._round(width) for width in self.widths)

    @property
    def stem_channels(self) -> tuple[int, ...]:
        """Output channels of each of the stem's convolutions."""
        last = self.widths[0] // 2 if self.stem_width is None else self.stem_width
        return tuple(self._round(width) for width in (*self.stem_widths, last))

    @property
    def final_channels(self) -> int | None:
        """Output channels of the last convolution, if there is one."""
        if self.final_expansion is None:
            return None
        return self._round(self.widths[-1] * self.final_expansion)

    def block_width(self, in_channels: int, out_channels: int) -> tuple[int, int]:
        """Returns the width of a block's 3x3 convolutions, and its number of groups.

        Raises:
            ValueError: If the width is less than one group.
        """
        base = out_channels if self.big_width else in_channels
        width = self._round(base * self.expansion)
        if self.group_width is None:
            return width, 1
        groups = width // self.group_width
        if groups == 0:
            raise ValueError(
                f"A block with {base} channels and expansion={self.expansion} has 3x3 "
                f"convolutions {width} wide, less than one group of "
                f"group_width={self.group_width}: widen it or narrow its groups."
            )
        return groups * self.group_width, groups

    @property
    def activation_function(self) -> str:
        """The name in `nfx.nn.ACTIVATIONS`, with the kind of gelu resolved."""
        return "gelu_exact" if (self.activation, self.gelu) == ("gelu", "erf") else self.activation

    @property
    def gammas(self) -> tuple[float, float]:
        """The constants that activations and kernels are multiplied by."""
        gamma = ACTIVATIONS[self.activation].gamma
        return (gamma, 1.0) if self.gamma_in == "activation" else (1.0, gamma)

    def _round(self, channels: int | float) -> int:
        return round_channels(channels, self.channel_multiple, least_share=0.9)


def _rules(v: NFNetVariant) -> dict[str, bool]:
    """What has to hold for the numbers of a variant, by what is said if it does not."""
    counts = (*v.depths, *v.widths, *v.stem_widths, v.stem_kernel, v.channel_multiple, v.expansion)
    optional = (
        v.stem_width,
        v.group_width,
        v.first_expansion,
        v.final_expansion,
        v.squeeze_excite_ratio,
    )
    return {
        f"depths={v.depths}, widths={v.widths} and strides={v.strides} must have one entry a "
        "stage each":
            len(v.depths) == len(v.widths) == len(v.strides),
        f"depths={v.depths}, widths={v.widths}, stem_widths={v.stem_widths}, "
        f"stem_width={v.stem_width}, stem_kernel={v.stem_kernel}, group_width={v.group_width}, "
        f"channel_multiple={v.channel_multiple}, expansion={v.expansion}, "
        f"first_expansion={v.first_expansion}, final_expansion={v.final_expansion} and "
        f"squeeze_excite_ratio={v.squeeze_excite_ratio} must be positive, and there must be a "
        "stage":
            bool(v.depths) and min(counts) > 0 and all(x is None or x > 0 for x in optional),
        f"strides={v.strides} and stem_strides={v.stem_strides} must be 1 or 2: the shortcut of "
        "a strided block averages 2x2 pixels":
            {*v.strides, *v.stem_strides} <= {1, 2},
        f"stem_strides={v.stem_strides} must have one entry more than "
        f"stem_widths={v.stem_widths}, for the last convolution of the stem":
            len(v.stem_strides) == len(v.stem_widths) + 1,
        f"drop_rate={v.drop_rate} and stochastic_depth_rate={v.stochastic_depth_rate} must be in "
        "[0, 1)":
            0 <= v.drop_rate < 1 and 0 <= v.stochastic_depth_rate < 1,
        f"activation={v.activation!r} is not one a normalizer-free network can use: "
        f"{', '.join(ELEMENTWISE)}":
            v.activation in ELEMENTWISE,
        f"squeeze_excite_ratio={v.squeeze_excite_ratio} and efficient_channel_attention=True: a "
        "block has one attention":
            v.squeeze_excite_ratio is None or not v.efficient_channel_attention,
    }  # fmt: skip
