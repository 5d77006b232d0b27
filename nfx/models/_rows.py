"""The models, one row each.

Sources: Brock et al. (2021), arXiv:2102.06171, and Brock, De & Smith (2021), arXiv:2101.08692;
sizes, widths and drop rates from the official `nfnets/base.py`, `nf_resnet.py` and
`nf_regnet.py` and from timm 1.0, `nfnet.py`.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from nfx.models._batch_norm_variant import BatchNormVariant
from nfx.models._variant import CONVENTIONS, NFNetVariant


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

# The official code has no drop rate of its own for NF-ResNets; sizes are its experiments' default.
_resnet = partial(
    NFNetVariant, family="NF-ResNet", widths=(256, 512, 1024, 2048), stem_widths=(), stem_width=64,
    stem_strides=(2,), stem_kernel=7, stem_pool=True, group_width=None, expansion=0.25,
    two_convs=False, squeeze_excite_ratio=None, final_expansion=None, activation="relu",
    drop_rate=0.0, train_size=224, test_size=224,
)

_official_resnet = partial(_resnet, strided_shortcut=True, stochastic_depth_rate=0.1)

_NF_RESNET: Mapping[str, NFNetVariant] = {
    "nf_resnet50":  _official_resnet(depths=( 3,  4,  6,  3)),
    "nf_resnet101": _official_resnet(depths=( 3,  4, 23,  3)),
    "nf_resnet152": _official_resnet(depths=( 3,  8, 36,  3)),
    "nf_resnet200": _official_resnet(depths=( 3, 24, 36,  3)),
    "nf_resnet288": _official_resnet(depths=(24, 24, 24, 24)),
    "nf_resnet600": _official_resnet(depths=(50, 50, 50, 50)),
}

# Widths are those of the tables times 0.75, which is always whole.
_regnet = partial(
    NFNetVariant, family="NF-RegNet", strides=(2, 2, 2, 2), stem_widths=(), stem_strides=(2,),
    group_width=8, expansion=2.25, first_expansion=1.0, big_width=False, two_convs=False,
    attention_after="conv1", final_expansion=1280 / 440, head_std=0.0, activation="silu",
    stochastic_depth_rate=0.1,
)

_NF_REGNET: Mapping[str, NFNetVariant] = {
    "nf_regnet_b0": _regnet(depths=(1,  3,  6,  6), widths=(36,  78, 156, 330), stem_width=36,
                            drop_rate=0.2, train_size=192, test_size=224),
    "nf_regnet_b1": _regnet(depths=(2,  4,  7,  7), widths=(36,  78, 156, 330), stem_width=36,
                            drop_rate=0.2, train_size=224, test_size=256),
    "nf_regnet_b2": _regnet(depths=(2,  4,  8,  8), widths=(42,  84, 174, 366), stem_width=42,
                            drop_rate=0.3, train_size=240, test_size=272),
    "nf_regnet_b3": _regnet(depths=(2,  5,  9,  9), widths=(42,  96, 186, 396), stem_width=42,
                            drop_rate=0.3, train_size=288, test_size=320),
    "nf_regnet_b4": _regnet(depths=(2,  6, 11, 11), widths=(48, 108, 216, 462), stem_width=48,
                            drop_rate=0.4, train_size=320, test_size=384),
    "nf_regnet_b5": _regnet(depths=(3,  7, 14, 14), widths=(60, 126, 252, 528), stem_width=60,
                            drop_rate=0.4, train_size=384, test_size=456),
    "nf_regnet_b6": _regnet(depths=(3,  8, 16, 16), widths=(66, 138, 282, 594), stem_width=66,
                            drop_rate=0.5, train_size=448, test_size=528),
    "nf_regnet_b7": _regnet(depths=(4, 10, 19, 19), widths=(72, 156, 312, 660), stem_width=72,
                            drop_rate=0.5, train_size=512, test_size=600),
    "nf_regnet_b8": _regnet(depths=(4, 11, 22, 22), widths=(78, 174, 342, 726), stem_width=78,
                            drop_rate=0.5, train_size=600, test_size=672),
}

# Not the paper's: the same architecture for small images, to learn and to test with. They throw
# less of the image away, and their branches start open: at `skip_gain` zero a gain must first
# grow under clipping, which takes longer than their whole training.
_small = partial(
    NFNetVariant, widths=(32, 64, 96, 96), strides=(1, 2, 2, 1), stem_widths=(16,),
    stem_strides=(1, 2), group_width=16, skip_gain=1.0, drop_rate=0.2, train_size=28, test_size=28,
)

_SMALL: Mapping[str, NFNetVariant] = {
    "nfnet_nano":  _small(depths=(1, 1, 1, 1)),
    "nfnet_micro": _small(depths=(1, 2, 3, 1)),
}

_timm_dm = partial(replace, **CONVENTIONS["timm dm"], stochastic_depth_rate=0.0, drop_rate=0.0)

_timm = partial(
    NFNetVariant, **CONVENTIONS["timm"], stem_width=128, stochastic_depth_rate=0.0, drop_rate=0.0
)

_l = partial(
    _timm, group_width=64, expansion=0.25, squeeze_excite_ratio=None, activation="silu",
    efficient_channel_attention=True,
)

_TIMM_NFNET: Mapping[str, NFNetVariant] = {
    **{f"timm/dm_{name}": _timm_dm(row) for name, row in _F.items() if name != "nfnet_f7"},
    **{
        f"timm/{name}": _timm(depths=row.depths, train_size=row.train_size, test_size=row.test_size)
        for name, row in _F.items()
    },
    "timm/nfnet_l0":     _l(depths=(1, 2,  6,  3), train_size=224, test_size=288,
                            squeeze_excite_ratio=0.25, efficient_channel_attention=False,
                            final_expansion=1.5),
    "timm/eca_nfnet_l0": _l(depths=(1, 2,  6,  3), train_size=224, test_size=288,
                            final_expansion=1.5),
    "timm/eca_nfnet_l1": _l(depths=(2, 4, 12,  6), train_size=256, test_size=320),
    "timm/eca_nfnet_l2": _l(depths=(3, 6, 18,  9), train_size=320, test_size=384),
    "timm/eca_nfnet_l3": _l(depths=(4, 8, 24, 12), train_size=352, test_size=448),
    "timm/test_nfnet":   _timm(depths=(1, 1, 1, 1), widths=(32, 64, 96, 128), group_width=8,
                               expansion=0.25, squeeze_excite_ratio=0.25, activation="silu",
                               final_expansion=1.5, train_size=160, test_size=160),
}

# timm rounds every width to a multiple of 8, and so builds other networks than the official code.
_TIMM_REGNET: Mapping[str, NFNetVariant] = {
    f"timm/{name}": replace(
        _NF_REGNET[name], **CONVENTIONS["timm"], head_std=0.01, stochastic_depth_rate=0.0,
        drop_rate=0.0, train_size=train_size, test_size=test_size,
    )
    for name, train_size, test_size in (
        ("nf_regnet_b0", 192, 256), ("nf_regnet_b1", 256, 288), ("nf_regnet_b2", 240, 272),
        ("nf_regnet_b3", 288, 320), ("nf_regnet_b4", 320, 384), ("nf_regnet_b5", 384, 456),
    )
}

_timm_resnet = partial(_resnet, **CONVENTIONS["timm"], stochastic_depth_rate=0.0)

_TIMM_RESNET: Mapping[str, NFNetVariant] = {
    f"timm/{prefix}{depth}": _timm_resnet(depths=depths, **attention)
    for prefix, attention in (
        ("nf_resnet", {}),
        ("nf_seresnet", {"squeeze_excite_ratio": 1 / 16}),
        ("nf_ecaresnet", {"efficient_channel_attention": True}),
    )
    for depth, depths in ((26, (2, 2, 2, 2)), (50, (3, 4, 6, 3)), (101, (3, 4, 23, 3)))
} | {"timm/nf_resnet50": _timm_resnet(depths=(3, 4, 6, 3), train_size=256, test_size=288)}
# fmt: on

OFFICIAL: Mapping[str, NFNetVariant] = MappingProxyType(
    {**_F, **_F_PLUS, **_NF_RESNET, **_NF_REGNET}
)

SMALL: Mapping[str, NFNetVariant] = MappingProxyType(_SMALL)

TIMM: Mapping[str, NFNetVariant] = MappingProxyType({**_TIMM_NFNET, **_TIMM_REGNET, **_TIMM_RESNET})

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
