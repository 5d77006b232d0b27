"""Activations scaled to keep unit variance."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Activation(NamedTuple):
    """A nonlinearity and the gamma that gives it unit variance on N(0, 1) inputs."""

    function: Callable[[Array], Array]
    gamma: float

    def __call__(self, x: Float[Array, "*shape c"]) -> Float[Array, "*shape c_out"]:
        """Computes `gamma * function(x)`."""
        return _scaled(x, function=self.function, gamma=self.gamma)


# Jitted for its tracing cache: networks call few activations, many times.
@partial(jax.jit, static_argnames=("function", "gamma"))
def _scaled(x: Array, *, function: Callable[[Array], Array], gamma: float) -> Array:
    return function(x) * gamma


_GELU_GAMMA = 1.7015043497085571

# Source: official code, `base.py`. Names are JAX's. The official gelu is the approximation
# by tanh, timm's the exact one by erf: they differ by 1.5e-4 on the logits of NFNet-F0.
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({
    "identity":    Activation(lambda x: x, 1.0),
    "celu":        Activation(jax.nn.celu, 1.270926833152771),
    "elu":         Activation(jax.nn.elu, 1.2716004848480225),
    "gelu":        Activation(partial(jax.nn.gelu, approximate=True), _GELU_GAMMA),
    "gelu_exact":  Activation(partial(jax.nn.gelu, approximate=False), _GELU_GAMMA),
    "glu":         Activation(jax.nn.glu, 1.8484294414520264),
    "leaky_relu":  Activation(jax.nn.leaky_relu, 1.70590341091156),
    "log_sigmoid": Activation(jax.nn.log_sigmoid, 1.9193484783172607),
    "log_softmax": Activation(jax.nn.log_softmax, 1.0002083778381348),
    "relu":        Activation(jax.nn.relu, 1.7139588594436646),
    "relu6":       Activation(jax.nn.relu6, 1.7131484746932983),
    "selu":        Activation(jax.nn.selu, 1.0008515119552612),
    "sigmoid":     Activation(jax.nn.sigmoid, 4.803835391998291),
    "silu":        Activation(jax.nn.silu, 1.7881293296813965),
    "soft_sign":   Activation(jax.nn.soft_sign, 2.338853120803833),
    "softplus":    Activation(jax.nn.softplus, 1.9203323125839233),
    "tanh":        Activation(jnp.tanh, 1.5939117670059204),
})  # fmt: skip

# Those that keep the number of channels, and so can be a network's.
ELEMENTWISE = tuple(sorted(set(ACTIVATIONS) - {"glu"}))
