"""The laws of rewrites: what a function from model to model has to keep."""

import dataclasses
import functools as ft
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from nfx._tree import as_patterns, check_patterns, leaves_by_path, parameter_count, path_matches
from nfx.optim import adaptive_grad_clip
from nfx.testing._law import check_laws, inexact_leaves, Law, LawViolation, matching_leaves


Rewrite = Callable[[Any], Any]

# `(model, image, *, key) -> outputs`, for one image.
Outputs = Callable[..., PyTree]

# Images that are drawn at a time; each has its own key.
_IMAGES = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewriteSubject:
    """A rewrite, and the model that laws try it on.

    Attributes:
        model: With parameters away from their initial values.
        rewrite: The function.
        inverse: The function that undoes it, if there is one.
        outputs: What is compared.
        unchanged: Patterns of paths of leaves that stay as they are.
        clipper: What clips gradients.
        image_shape: Of one image.
        rtol: Largest error over the largest entry of an output, a gradient or an update.
    """

    model: PyTree
    rewrite: Rewrite
    inverse: Rewrite | None
    outputs: Outputs
    unchanged: tuple[str, ...]
    clipper: optax.GradientTransformation
    image_shape: tuple[int, ...]
    rtol: float

    @ft.cached_property
    def rewritten(self) -> PyTree:
        """What the rewrite makes of the model."""
        return self.rewrite(self.model)

    def draw(self, seed: int) -> tuple[jax.Array, jax.Array]:
        """Draws images, and a key for each."""
        image_key, key = jax.random.split(jax.random.key(seed))
        images = jax.random.normal(image_key, (_IMAGES, *self.image_shape))
        return images, jax.random.split(key, _IMAGES)

    def run(self, model: PyTree, images: jax.Array, keys: jax.Array | None) -> PyTree:
        """Computes the outputs."""
        return _run(model, images, keys, outputs=self.outputs)

    def gradients(self, model: PyTree, seed: int) -> PyTree:
        """Computes the gradient of one projection of the outputs, with keys."""
        return _gradients(model, *self.draw(seed), outputs=self.outputs)


# Jitted here and not in a subject, so that what several rewrites of a model share is compiled once.
@ft.partial(jax.jit, static_argnames="outputs")
def _run(model: PyTree, images: jax.Array, keys: jax.Array | None, *, outputs: Outputs) -> PyTree:
    return jax.vmap(lambda image, key: outputs(model, image, key=key))(images, keys)


@ft.partial(jax.jit, static_argnames="outputs")
def _gradients(model: PyTree, images: jax.Array, keys: jax.Array, *, outputs: Outputs) -> PyTree:
    def projection(model: PyTree) -> jax.Array:
        found = _run(model, images, keys, outputs=outputs)
        means = (jnp.mean(x * _direction(x)) for x in inexact_leaves(found))
        return sum(means, start=jnp.zeros(()))

    return jax.grad(projection)(model)


def _direction(x: jax.Array) -> jax.Array:
    """Numbers of no pattern, that take no time to compile."""
    return jnp.cos(jnp.square(jnp.arange(x.size, dtype=x.dtype) / 9)).reshape(x.shape)


def network_outputs(model: PyTree, image: jax.Array, *, key: jax.Array | None) -> PyTree:
    """Everything that a network of nfx computes, or what another module returns."""
    call = getattr(model, "features", model)
    return call(image, key=key)


def check_outputs(subject: RewriteSubject, seed: int) -> None:
    """Without a key."""
    images, _ = subject.draw(seed)
    _expect_same_run(subject, images, None)


def check_masks(subject: RewriteSubject, seed: int) -> None:
    """With keys."""
    _expect_same_run(subject, *subject.draw(seed))


def _expect_same_run(subject: RewriteSubject, images: jax.Array, keys: jax.Array | None) -> None:
    found, expected = (
        subject.run(model, images, keys) for model in (subject.rewritten, subject.model)
    )
    _expect_close(found, expected, "output", subject.rtol)


def check_half_precision(subject: RewriteSubject, seed: int) -> None:
    """On images in bfloat16, with keys."""
    images, keys = subject.draw(seed)
    half = images.astype(jnp.bfloat16)
    exact = leaves_by_path(subject.run(subject.model, images, keys))
    before = leaves_by_path(subject.run(subject.model, half, keys))
    after = leaves_by_path(subject.run(subject.rewritten, half, keys))
    unit = float(jnp.finfo(jnp.bfloat16).eps)
    for path, expected in exact.items():
        was, found = (_rms(_float64(x[path]) - _float64(expected)) for x in (before, after))
        size = _rms(_float64(expected))
        if not found <= 1.5 * was + unit * size:
            raise LawViolation(
                f"Output {path!r}: the rewritten model in bfloat16 is {found:.3g} from the "
                f"model in float32, and the model itself {was:.3g}; the output is of size "
                f"{size:.3g} (all root mean squares)."
            )


def check_gradients(subject: RewriteSubject, seed: int) -> None:
    """With keys, by the inverse in the model's own structure."""
    _expect_close(
        _inverse(subject)(subject.gradients(subject.rewritten, seed)),
        subject.gradients(subject.model, seed),
        "gradient",
        subject.rtol,
    )


def check_clipped(subject: RewriteSubject, seed: int) -> None:
    """What the clipper makes of the gradients, by the inverse in the model's own structure."""

    @jax.jit
    def clip(model: PyTree, gradients: PyTree) -> PyTree:
        return subject.clipper.update(gradients, subject.clipper.init(model), model)[0]

    rewritten, plain = (
        clip(model, subject.gradients(model, seed)) for model in (subject.rewritten, subject.model)
    )
    _expect_close(_inverse(subject)(rewritten), plain, "clipped gradient", subject.rtol)


def check_round_trip(subject: RewriteSubject, seed: int) -> None:
    """To the bit."""
    del seed
    back, model = _inverse(subject)(subject.rewritten), subject.model
    _expect_same_leaves(back, model)
    if jax.tree.structure(back) != jax.tree.structure(model):
        raise LawViolation(
            "The leaves come back, and the structure is another: a static field, such as a "
            "constant of a layer, changed."
        )
    counts = [parameter_count(tree) for tree in (subject.rewritten, model)]
    if counts[0] != counts[1]:
        raise LawViolation(f"There are {counts[0]} parameters for {counts[1]}.")


def check_unchanged(subject: RewriteSubject, seed: int) -> None:
    """Of the leaves whose paths match."""
    del seed
    kept = lambda tree: {
        path: leaf
        for path, leaf in leaves_by_path(tree).items()
        if path_matches(path, subject.unchanged)
    }
    _expect_same_leaves(kept(subject.rewritten), kept(subject.model))


def check_abstract(subject: RewriteSubject, seed: int) -> None:
    """The structure, and every shape and dtype."""
    del seed
    abstract = jax.eval_shape(subject.rewrite, subject.model)
    structures = [jax.tree.structure(tree) for tree in (abstract, subject.rewritten)]
    if structures[0] != structures[1]:
        raise LawViolation(
            f"From shapes alone it makes another structure:\n  {structures[0]}\nand from arrays\n"
            f"  {structures[1]}"
        )
    for path, *leaves in matching_leaves(abstract, subject.rewritten):
        found, expected = ((leaf.shape, leaf.dtype) for leaf in leaves)
        if found != expected:
            raise LawViolation(
                f"Leaf {path!r} is {found} from shapes alone, and {expected} from arrays."
            )


def _inverse(subject: RewriteSubject) -> Rewrite:
    if subject.inverse is None:
        raise ValueError("There is no inverse.")
    return subject.inverse


def _expect_close(actual: PyTree, expected: PyTree, what: str, rtol: float) -> None:
    for path, found, leaf in _alike(actual, expected, what):
        error = np.max(np.abs(_float64(found) - _float64(leaf)), initial=0)
        size = np.max(np.abs(_float64(leaf)), initial=0)
        if not error <= rtol * size:
            raise LawViolation(
                f"The {what} {path!r} is off by {error:.3g}; its largest entry is {size:.3g}, and "
                f"{rtol:g} of that is allowed."
            )


def _expect_same_leaves(actual: PyTree, expected: PyTree) -> None:
    for path, found, leaf in _alike(actual, expected, "leaf"):
        changed = np.sum(np.asarray(found) != np.asarray(leaf))
        if changed:
            raise LawViolation(
                f"The leaf {path!r} of shape {tuple(leaf.shape)}: {changed} of its {leaf.size} "
                "numbers are others."
            )


def _alike(actual: PyTree, expected: PyTree, what: str) -> Iterator[tuple[str, Any, Any]]:
    """As `matching_leaves`, of the same shapes and dtypes."""
    for path, found, leaf in matching_leaves(actual, expected, what):
        if (found.shape, found.dtype) != (leaf.shape, leaf.dtype):
            raise LawViolation(
                f"The {what} {path!r} is {found.dtype}{list(found.shape)}, and was "
                f"{leaf.dtype}{list(leaf.shape)}."
            )
        yield path, found, leaf


def _float64(x: Any) -> np.ndarray:
    return np.asarray(x, np.float64)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def _law(
    statement: str,
    holds: Callable[[RewriteSubject, int], None],
    applies: Callable[[RewriteSubject], bool] = lambda subject: True,
    examples: int = 2,
) -> Law[RewriteSubject]:
    return Law(
        statement=statement,
        cases=lambda subject: st.integers(0, 3),
        holds=holds,
        applies=applies,
        examples=examples,
    )


def _has_inverse(subject: RewriteSubject) -> bool:
    return subject.inverse is not None


REWRITE_LAWS: Mapping[str, Law[RewriteSubject]] = MappingProxyType({
    "outputs": _law("every output is the same, without a key", check_outputs),
    "masks": _law(
        "every output is the same with a key: what is dropped, and what multiplies the rest",
        check_masks,
    ),
    "half precision": _law(
        "on bfloat16 images, with a key, no output is farther from the model's own on float32 "
        "images than 1.5 times what the model's is, plus 2^-7 of its size (root mean squares)",
        check_half_precision,
    ),
    "gradients": _law(
        "the inverse of its gradient is the gradient, with a key", check_gradients, _has_inverse
    ),
    "clipping": _law(
        "the inverse of its clipped gradient is the clipped gradient", check_clipped, _has_inverse
    ),
    "round trip": _law(
        "the inverse gives the model back to the bit, and there are as many parameters between",
        check_round_trip, _has_inverse, examples=1,
    ),
    "unchanged": _law(
        "what it does not rewrite is where it was, to the bit",
        check_unchanged, lambda subject: bool(subject.unchanged), examples=1,
    ),
    "abstract": _law(
        "from shapes alone it makes the shapes of what it makes from arrays",
        check_abstract, examples=1,
    ),
})  # fmt: skip


def check_rewrite(  # noqa: PLR0913
    rewrite: Rewrite,
    model: PyTree,
    *,
    inverse: Rewrite | None = None,
    outputs: Outputs = network_outputs,
    unchanged: str | Sequence[str] = (),
    clipper: optax.GradientTransformation | None = None,
    image_shape: tuple[int, ...] = (32, 32, 3),
    rtol: float = 1e-5,
    laws: Iterable[str] | None = None,
) -> tuple[str, ...]:
    r"""Looks for a counterexample to the laws of rewrites: that a model computes what it did.

    >>> check_rewrite(stack_blocks, model, inverse=unstack_blocks, unchanged="head/.*")
    >>> check_rewrite(
    ...     lambda model: reset_classifier(model, 3, key=key), model, unchanged=r"stages/.*",
    ...     outputs=lambda model, image, *, key: model.features(image, key=key).pooled)

    Every parameter is moved by a tenth of its leaf's size first, or by 0.1 where all of it is
    zero: gains that start at zero or one would hide what they multiply. Rates of stochastic depth
    and dropout of a half show most.

    Args:
        rewrite: A function from model to model.
        model: What to try it on: a pytree of arrays.
        inverse: What undoes the rewrite, of models and of gradients, which are trees of the same
            structure; by default none is known.
        outputs: What is to stay the same, `(model, image, *, key) -> pytree`; by default
            everything that `model.features` returns, or else what calling the model does.
        unchanged: Patterns of paths of leaves that are to stay as they are: see
            `nfx._tree.path_matches`.
        clipper: What clips gradients, by default `nfx.optim.adaptive_grad_clip(0.01)`.
        image_shape: Of one image.
        rtol: Largest error over the largest entry of an output, a gradient or an update.
        laws: Names of `REWRITE_LAWS`, by default all.

    Returns:
        The names of the laws that were tried and hold. "gradients", "clipping" and "round trip"
        take an inverse, "unchanged" patterns: without, they are left out.

    Raises:
        LawViolation: With the law, what is off and by how much.
        ValueError: If there is no law of a name, or a pattern matches no leaf.
    """
    unchanged = as_patterns(unchanged)
    check_patterns(unchanged, list(leaves_by_path(model)), "leaves of the model")
    subject = RewriteSubject(
        model=moved(model),
        rewrite=rewrite,
        inverse=inverse,
        outputs=outputs,
        unchanged=unchanged,
        clipper=clipper or adaptive_grad_clip(0.01),
        image_shape=image_shape,
        rtol=rtol,
    )
    return check_laws(REWRITE_LAWS, subject, laws, examples=2)


def moved(model: PyTree) -> PyTree:
    """Moves every parameter by a tenth of its leaf's size, or by 0.1 where all of it is zero."""
    generator = np.random.default_rng(0)

    def move(leaf: jax.Array) -> jax.Array:
        values = _float64(leaf)
        steps = generator.standard_normal(leaf.shape) * ((_rms(values) / 10) or 0.1)
        return jnp.asarray(values + steps, leaf.dtype)

    return jax.tree.map(move, model)
