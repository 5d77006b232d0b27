"""Wrong versions of what the laws are about: each is caught by some, and each law catches some."""

import functools as ft

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import nfx
from nfx import nn
from nfx._tree import map_with_path, path_matches, replace_fields
from nfx._units import tensor_axes
from nfx.graph import cast, fold_weight_standardization, stack_blocks, unstack_blocks


# Clippers. The one without arguments is right; each bug is one argument.


def sum_of_squares(x, axes):
    return jnp.sum(jnp.square(x.astype(jnp.float32)), axis=axes, keepdims=True)


def right_norm(x, axes):
    small = x * jax.lax.optimization_barrier(jnp.asarray(2.0**-28, jnp.float32))
    return jnp.sqrt(sum_of_squares(small, axes)) * 2.0**28


def clipper(
    *,
    units=nfx.unit_axes,
    norm=right_norm,
    bound=lambda clipping, size: clipping * jnp.maximum(size, 1e-3),
    clip=lambda g, size, bound: jnp.where(size > bound, g * (bound / size), g),
    finish=lambda clipped, gradients: clipped,
):
    """Returns `clipping -> transform`."""

    def make(clipping):
        def one(g, p, kept):
            axes = tuple(i for i in range(g.ndim) if i not in {k % g.ndim for k in kept})
            return clip(g, norm(g, axes), bound(clipping, norm(p, axes))).astype(g.dtype)

        def update(updates, state, params=None):
            clipped = jax.tree.map(one, updates, params, units(params))
            return finish(clipped, updates), state

        return optax.GradientTransformation(lambda params: optax.EmptyState(), update)

    return make


def outputs_last(params):
    return jax.tree.map(lambda p: (-1,) if p.ndim > 1 else (), params)


def stack_merged(params):
    """The axes of one module, counted from the last: those of a stack are summed over."""

    def merged(axes, p):
        return axes if len(axes) < 2 else tuple(axis % p.ndim - p.ndim for axis in axes[1:])

    return jax.tree.map(lambda p, axes: merged(axes, p), params, nfx.unit_axes(params))


def per_element(params):
    return jax.tree.map(lambda p, axes: axes or tuple(range(p.ndim)), params, nfx.unit_axes(params))


def by_global_norm(clipping):
    def update(updates, state, params=None):
        size, bound = (
            optax.tree.norm(updates),
            clipping * jnp.maximum(optax.tree.norm(params), 1e-3),
        )
        scale = jnp.minimum(1, bound / jnp.maximum(size, 1e-6))
        return jax.tree.map(lambda g: g * scale.astype(g.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def one_bad_unit_stops_all(clipped, gradients):
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradients)]))
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros((), x.dtype)), clipped)


def in_float32(clipped, gradients):
    del gradients
    return jax.tree.map(lambda x: x.astype(jnp.float32), clipped)


CLIPPERS = {
    "outputs last, whatever the layout": clipper(units=outputs_last),
    "axes of a stack merged": clipper(units=stack_merged),
    "one norm a tensor": clipper(units=tensor_axes),
    "one norm an entry of vectors": clipper(units=per_element),
    "one norm for the whole tree": by_global_norm,
    "squared norms": clipper(norm=sum_of_squares),
    "square root missing for the gradient": clipper(
        clip=lambda g, size, bound: jnp.where(size**2 > bound, g * (bound / size**2), g)
    ),
    "mean for sum": clipper(norm=lambda x, axes: jnp.sqrt(
        jnp.mean(jnp.square(x.astype(jnp.float32)), axis=axes, keepdims=True))),
    "norm of absolute values": clipper(norm=lambda x, axes: jnp.sum(
        jnp.abs(x.astype(jnp.float32)), axis=axes, keepdims=True)),
    "largest entry for norm": clipper(norm=lambda x, axes: jnp.max(
        jnp.abs(x.astype(jnp.float32)), axis=axes, keepdims=True)),
    "eps added for floored": clipper(bound=lambda clipping, size: clipping * (size + 1e-3)),
    "no floor": clipper(bound=lambda clipping, size: clipping * size),
    "floor on the bound": clipper(
        bound=lambda clipping, size: jnp.maximum(clipping * size, 1e-3)),
    "floor on the gradient": clipper(
        bound=lambda clipping, size: clipping * size,
        clip=lambda g, size, bound: jnp.where(
            size > bound, g * (bound / jnp.maximum(size, 1e-3)), g),
    ),
    "brought to the bound from below too": clipper(
        clip=lambda g, size, bound: g * (bound / jnp.maximum(size, 1e-30))),
    "entries clipped one by one": clipper(clip=lambda g, size, bound: jnp.clip(g, -bound, bound)),
    "clipped units zeroed": clipper(clip=lambda g, size, bound: jnp.where(size > bound, 0, g)),
    "always multiplied": clipper(
        clip=lambda g, size, bound: g * (bound * (1 / jnp.maximum(size, bound)))),
    "divided by a norm of zero": clipper(
        clip=lambda g, size, bound: g / size * jnp.minimum(size, bound)),
    "the bound of the first unit for all": clipper(
        bound=lambda clipping, size: clipping * jnp.maximum(size.ravel()[0], 1e-3)),
    "a branch on values in Python": clipper(
        clip=lambda g, size, bound: g * (bound / size) if (size > bound).all() else g),
    "the ratio it is given left out": lambda clipping: clipper()(0.01),
    "norms in the dtype of the leaf": clipper(norm=lambda x, axes: jnp.sqrt(
        jnp.sum(jnp.square(x), axis=axes, keepdims=True))),
    "squares that overflow": clipper(norm=lambda x, axes: jnp.sqrt(sum_of_squares(x, axes))),
    "one bad unit stops all": clipper(finish=one_bad_unit_stops_all),
    "results in float32": clipper(finish=in_float32),
    "optax.adaptive_grad_clip": optax.adaptive_grad_clip,
}  # fmt: skip


# Weight standardization


def standardization(
    *,
    mean=lambda w, axes: jnp.mean(w, axis=axes, keepdims=True),
    variance=lambda w, axes: jnp.var(w, axis=axes, keepdims=True),
    scale=lambda variance, fan_in: jax.lax.rsqrt(jnp.maximum(variance * fan_in, 1e-4)),
    gain=lambda gain: gain,
):
    """Returns `(weight, gain) -> kernel`, by the official rule."""

    def standardize(w, g):
        axes = tuple(range(w.ndim - 1))
        fan_in = w.size // w.shape[-1]
        return (w - mean(w, axes)) * scale(variance(w, axes), fan_in) * gain(g)

    return standardize


def fan_out(w, g):
    right = standardization()(w, g)
    return right * jnp.sqrt(w.shape[-2] / w.shape[-1])


STANDARDIZATIONS = {
    "unbiased variance": standardization(
        variance=lambda w, axes: jnp.var(w, axis=axes, keepdims=True, ddof=1)),
    "no mean": standardization(mean=lambda w, axes: 0.0),
    "mean over the outputs": standardization(
        mean=lambda w, axes: jnp.mean(w, axis=-1, keepdims=True)),
    "mean over space alone": standardization(
        mean=lambda w, axes: jnp.mean(w, axis=axes[:-1], keepdims=True) if axes[:-1] else w),
    "statistics of the whole kernel": standardization(
        mean=lambda w, axes: jnp.mean(w), variance=lambda w, axes: jnp.var(w)),
    "gain left out": standardization(gain=lambda gain: jnp.ones_like(gain)),
    "gain squared": standardization(gain=jnp.square),
    "fan-out for fan-in": fan_out,
    "no fan-in": standardization(
        scale=lambda variance, fan_in: jax.lax.rsqrt(jnp.maximum(variance, 1e-4))),
    "variance for deviation": standardization(
        scale=lambda variance, fan_in: 1 / jnp.maximum(variance * fan_in, 1e-4)),
    "eps added for floored": standardization(
        scale=lambda variance, fan_in: jax.lax.rsqrt(variance * fan_in + 1e-4)),
    "floor on the variance alone": standardization(
        scale=lambda variance, fan_in: jax.lax.rsqrt(jnp.maximum(variance, 1e-4) * fan_in)),
    "no floor": standardization(scale=lambda variance, fan_in: jax.lax.rsqrt(variance * fan_in)),
    "no gradient through the statistics": standardization(
        mean=lambda w, axes: jax.lax.stop_gradient(jnp.mean(w, axis=axes, keepdims=True)),
        variance=lambda w, axes: jax.lax.stop_gradient(jnp.var(w, axis=axes, keepdims=True))),
}  # fmt: skip


# Layers, networks and samplers: each with its law


def nano(**overrides):
    return nfx.create_model("nfnet_nano", num_classes=5, key=jax.random.key(0), **overrides)


def one_mask_a_batch(images, keys):
    drop = nn.StochasticDepth(0.5)
    return jax.vmap(lambda x: drop(x, key=keys[0]))(images)


def batch_normalized(images):
    norm = nn.BatchNorm(3)
    return norm(images, norm.initial_statistics(), batch_axes=())[0]


def growing(**overrides):
    return nfx.create_model(
        "nfnet_micro", key=jax.random.key(0), strides=(1, 1, 1, 1), depths=(2, 3, 2, 1),
        widths=(32, 64, 96, 128), skip_gain=1.0, alpha=1.0, **overrides,
    )  # fmt: skip


def with_betas(model, betas):
    """`model` with each block's beta computed from it and its index in its stage."""
    blocks = lambda model: [block for stage in model.stages for block in stage.blocks]
    changed = [
        with_beta(block, betas(block, index))
        for stage in model.stages
        for index, block in enumerate(stage.blocks)
    ]
    return eqx.tree_at(blocks, model, changed)


def with_beta(block, beta):
    changed = object.__new__(type(block))
    for name, value in (vars(block) | {"beta": beta}).items():
        object.__setattr__(changed, name, value)
    return changed


def relu_gamma_for_gelu(x):
    return jax.nn.gelu(x) * nn.ACTIVATIONS["relu"].gamma


def sampler(impl):
    return lambda seeds: jax.vmap(
        lambda seed: jax.random.uniform(jax.random.key(seed, impl=impl), (3,))
    )(seeds)


variance, ledger, independence, sharding = (
    nfx.testing.check_variance_preserving,
    nfx.testing.check_variance_ledger,
    ft.partial(nfx.testing.check_example_independence, image_shape=(8, 8, 3)),
    nfx.testing.check_sharding_invariant,
)
SEEDS = jnp.arange(16, dtype=jnp.uint32)

# The law, what it holds for, and what it does not.
OTHERS = {
    "gelu by the gamma of relu": (
        "variance of activations", variance, nn.ACTIVATIONS["gelu"], relu_gamma_for_gelu),
    "gamma left out": ("variance of activations", variance, nn.ACTIVATIONS["silu"], jax.nn.silu),
    "beta left out": (
        "variance ledger", ledger, growing,
        lambda: with_betas(growing(), lambda block, index: 1.0)),
    "ledger not reset at a transition": (
        "variance ledger", ledger, growing,
        lambda: with_betas(
            growing(), lambda block, index: block.beta / (1.5 if index else 1))),
    "one mask of stochastic depth a batch": (
        "independence of examples", independence,
        lambda images, keys: jax.vmap(
            lambda x, key: nn.StochasticDepth(0.5)(x, key=key))(images, keys),
        one_mask_a_batch),
    "batch normalization": (
        "independence of examples", independence, lambda images: 2 * images, batch_normalized),
    "a generator that draws by position": (
        "sharding", lambda fn: sharding(fn, SEEDS), sampler("threefry2x32"), sampler("rbg")),
}  # fmt: skip


# Rewrites: a bug is a wrong model to rewrite, or something done to what was rewritten.


def with_blocks(change):
    """A rewrite of each `NFBlock`, given its index in its stage."""

    def rewrite(model):
        stages = [
            replace_fields(stage, blocks=tuple(map(change, stage.blocks, range(len(stage.blocks)))))
            for stage in model.stages
        ]
        return replace_fields(model, stages=tuple(stages))

    return rewrite


def with_stacks(**fields):
    """A rewrite of each `Stack`, by functions of its fields."""

    def change(blocks, index):
        del index
        if not isinstance(blocks, nn.Stack):
            return blocks
        return replace_fields(blocks, **{k: f(getattr(blocks, k)) for k, f in fields.items()})

    return with_blocks(change)


def after(bug, rewrite):
    return lambda model: rewrite(bug(model))


def without_gain(block, index):
    del index
    conv = block.conv0
    plain = nn.Conv2d(
        conv.weight, conv.bias, stride=conv.stride, groups=conv.groups, padding=conv.padding
    )
    return replace_fields(block, conv0=plain)


def ones(leaf):
    return jax.tree.map(jnp.ones_like, leaf)


def reversed_constants(constants):
    return tuple((name, values[::-1]) for name, values in constants)


def all_kept(constants):
    return tuple((n, (1.0,) * len(v) if n == "keep" else v) for n, v in constants)


class ReversedKeys(nn.Stack):
    def __call__(self, x, *, keys=None):
        return super().__call__(x, keys=None if keys is None else keys[::-1])


class RoundedGradients(nn.Stack):
    """The same outputs, and gradients in bfloat16: as of a too thrifty rematerialization."""

    def __call__(self, x, *, keys=None):
        rounded = lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype)
        through = jax.custom_vjp(lambda leaf: leaf)
        through.defvjp(lambda leaf: (leaf, None), lambda _, g: (rounded(g),))
        block = jax.tree.map(through, self.block)
        return nn.Stack.__call__(replace_fields(self, block=block), x, keys=keys)


def of_class(kind):
    def change(blocks, index):
        del index
        if not isinstance(blocks, nn.Stack):
            return blocks
        copy = object.__new__(kind)
        for name, value in vars(blocks).items():
            object.__setattr__(copy, name, value)
        return copy

    return after(stack_blocks, with_blocks(change))


def with_biases_scaled(model):
    """What a cast does that also touches what it does not name."""
    return map_with_path(
        lambda path, leaf: leaf * 1.001 if path_matches(path, ".*/bias") else leaf, model
    )


fold = fold_weight_standardization
inverse = {"inverse": unstack_blocks}

# The law, the rewrite, and what else `check_rewrite` is told.
REWRITES = {
    "beta left out of a fold": ("outputs", after(
        with_blocks(lambda block, index: replace_fields(block, beta=1.0)), fold), {}),
    "factor of two left out of a fold": ("outputs", after(
        with_blocks(lambda block, index: replace_fields(block, gate_scale=1.0)), fold), {}),
    "skip gain left out of a fold": ("outputs", after(with_blocks(
        lambda block, index: replace_fields(block, skip_gain=jnp.ones(()))), fold), {}),
    "gain left out of a fold": ("outputs", after(
        with_blocks(lambda block, index: eqx.tree_at(lambda b: b.conv0.gain, block, replace_fn=ones)
        ), fold), {}),
    "a kernel not standardized": ("outputs", with_blocks(without_gain), {}),
    "betas of other blocks in a stack": ("outputs", after(
        stack_blocks, with_stacks(constants=reversed_constants)), {}),
    "keys of a stack reversed": ("masks", of_class(ReversedKeys), {}),
    "stochastic depth left out of a stack": ("masks", after(
        stack_blocks, with_stacks(constants=all_kept)), {}),
    "stack of the wrong order undone": ("round trip", after(
        stack_blocks, with_stacks(block=lambda block: jax.tree.map(lambda x: x[::-1], block))),
        inverse),
    "gradients rounded": ("gradients", of_class(RoundedGradients), inverse),
    "layers of a stack clipped as one": ("clipping", stack_blocks, inverse | {
        "clipper": nfx.optim.adaptive_grad_clip(0.01, units=stack_merged)}),
    "other leaves cast too": ("unchanged", after(
        with_biases_scaled, lambda model: cast(model, jnp.bfloat16, ".*/weight")),
        {"unchanged": [".*/bias", ".*/gain"]}),
    "stochastic depth of a stack left out in halves": ("half precision", after(
        stack_blocks, with_stacks(constants=all_kept)), {}),
    "shapes that depend on values": ("abstract", lambda model: eqx.tree_at(
        lambda m: m.head.bias, model, replace_fn=lambda b: b if isinstance(
            b, jax.core.Tracer) else b[:-1]), {}),
}  # fmt: skip


def grouped_convolution(x, kernel, *, stride, padding, groups):
    """As `nfx.nn.convolve`, as one convolution with groups, which the partitioner gets wrong."""
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        nn.window_padding(padding, kernel.shape[0]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )[0]
