"""The optimizer of the NFNet paper."""

from typing import NamedTuple

import jax
import optax

from nfx._tree import mask_by_path
from nfx.optim._agc import clip_by_rule, clip_rule
from nfx.optim._ema import parameter_ema
from nfx.optim._freeze import train_only


class ParameterGroups(NamedTuple):
    """The official parameter groups, as patterns of leaf paths.

    Attributes:
        unclipped: Leaves that AGC leaves alone: the classifier's weight, not its bias.
        undecayed: Leaves without weight decay: every gain and bias.
        trained: The only leaves that are trained; none for all of them.
    """

    unclipped: tuple[str, ...] = ("head/weight",)
    undecayed: tuple[str, ...] = ("gain", "skip_gain", "bias")
    trained: tuple[str, ...] = ()


OFFICIAL_GROUPS = ParameterGroups()


def nfnet_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    clipping: float | None = 0.01,
    clipping_eps: float = 1e-3,
    weight_decay: float = 2e-5,
    momentum: float = 0.9,
    ema: float = 0.99999,
    groups: ParameterGroups = OFFICIAL_GROUPS,
) -> optax.GradientTransformation:
    """AGC, weight decay, Nesterov momentum, learning rate, EMA: in the official order.

    Decay is added after clipping, inside the momentum, and scaled by the learning rate. Read
    the average with `ema_parameters(opt_state)`.

    Args:
        learning_rate: The rate, or a schedule as `warmup_cosine`. The paper's peak is 0.1
            for a batch of 256, in proportion to the batch.
        clipping: AGC's bound on the ratio of norms, or None for no clipping.
        clipping_eps: AGC's floor on the norm of a parameter.
        weight_decay: L2 penalty.
        momentum: Of the Nesterov momentum.
        ema: Decay of the parameters' average.
        groups: Which leaves are not clipped, not decayed, or not trained.

    References:
        Brock et al. (2021), arXiv:2102.06171, section 4; official code, `experiment_nfnets`.
    """
    decayed = lambda params: jax.tree.map(
        lambda matches: not matches, mask_by_path(params, groups.undecayed)
    )
    clip = (
        optax.identity()
        if clipping is None
        else clip_by_rule(
            clip_rule(clipping, clipping_eps, exclude=groups.unclipped), warns=not groups.trained
        )
    )
    sgd = optax.chain(
        clip,
        optax.add_decayed_weights(weight_decay, mask=decayed),
        optax.sgd(learning_rate, momentum, nesterov=True),
    )
    step = train_only(sgd, groups.trained) if groups.trained else sgd
    return optax.chain(step, parameter_ema(ema))
