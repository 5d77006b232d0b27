"""What is constant in inference, folded into plain convolutions."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nfx._tree import replace_fields
from nfx.graph._stack import check_normalizer_free, stack_like
from nfx.models import Convolution, NFBlock, NFNet
from nfx.nn import Conv2d, SqueezeExcite


Scale = float | Float[Array, ""]


def fold_weight_standardization(model: NFNet) -> NFNet:
    """Returns `model` with plain convolutions that compute what its standardized ones did.

    Into their kernels and biases go the standardization and its gain, the activations' gamma,
    beta, alpha, the skip gain, and the factor of two on the gates of attention. An attention's
    first weights are divided by the factor that its input is now multiplied by, so that its gates
    stay the same. All outputs and feature maps are the same to rounding, with a key too. There are
    fewer parameters, and training them is another matter: nothing is standardized any more.

    It is a function of arrays like any other: under `jax.jit` it is one program.

    Args:
        model: A normalizer-free network, of any family and lineage; stacks remain stacks.

    Raises:
        ValueError: If the model is not normalizer-free, or folded already.
    """
    check_normalizer_free(model)
    first, *others = model.stem
    stem = [_fold(first), *(_fold(conv, model.stem_gamma) for conv in others)]
    stages = [
        replace_fields(stage, blocks=tuple(map(_fold_block, stage.unstacked)))
        for stage in model.stages
    ]
    final = model.final_conv and _fold(model.final_conv)
    folded = replace_fields(
        model, stem=tuple(stem), stages=tuple(stages), final_conv=final, stem_gamma=1.0
    )
    return stack_like(folded, model)


def is_folded(model: NFNet) -> bool:
    """Whether a network's convolutions are plain: see `fold_weight_standardization`."""
    return isinstance(model.stem[0], Conv2d)


def _fold(conv: Convolution, inputs: Scale = 1.0, outputs: Scale = 1.0) -> Conv2d:
    """A convolution whose input and output are multiplied by constants."""
    if isinstance(conv, Conv2d):
        raise ValueError("The model is folded already: its convolutions are plain.")
    kernel = conv.kernel
    return Conv2d(
        kernel * jnp.asarray(inputs * outputs, kernel.dtype),
        conv.bias * jnp.asarray(outputs, conv.bias.dtype),
        stride=conv.stride,
        groups=conv.groups,
        padding=conv.padding,
    )


def _fold_block(block: NFBlock) -> NFBlock:
    gamma, scale = block.gamma, block.alpha
    if block.skip_gain is not None:
        scale = scale * block.skip_gain
    # An attention inside of the branch, before an activation, is folded where it is.
    inner = 1.0 if block.inner_attention is None else block.gate_scale
    outer = scale if block.attention is None else scale * block.gate_scale
    last = "conv1" if block.conv1b is None else "conv1b"
    convs = {
        "conv0": _fold(block.conv0, gamma * block.beta),
        "conv1": _fold(block.conv1, gamma, inner if last == "conv1" else 1.0),
        "conv1b": block.conv1b and _fold(block.conv1b, gamma, inner),
        "conv2": _fold(block.conv2, gamma, outer),
        "conv_shortcut": block.conv_shortcut and _fold(block.conv_shortcut, gamma * block.beta),
    }
    return replace_fields(
        block,
        **convs,
        inner_attention=_undo(block.inner_attention, inner),
        attention=_undo(block.attention, outer),
        skip_gain=None,
        gamma=1.0,
        gate_scale=1.0,
        alpha=1.0,
        beta=1.0,
    )


def _undo(attention: Any, scale: Scale) -> Any:
    """The attention that gates what is multiplied by `scale` as it gated it before."""
    if attention is None:
        return None
    weight = lambda a: a.fc0.weight if isinstance(a, SqueezeExcite) else a.weight
    factor = jnp.asarray(scale, weight(attention).dtype)
    # A branch that is multiplied by zero is zero, whatever its gate.
    undone = jnp.where(factor == 0, 0, 1 / factor)
    return eqx.tree_at(weight, attention, weight(attention) * undone)
