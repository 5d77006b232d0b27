"""What the laws of adaptive gradient clipping check, one function each."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfx.testing._arrays import by_unit, show_numbers
from nfx.testing._clipping_subject import (
    Arrays,
    ClippingSubject,
    closed_form,
    Leaf,
    unit_norms,
)
from nfx.testing._law import expect, LawViolation
from nfx.testing._sharding import expect_sharding_invariant


class ClippingCase(NamedTuple):
    """A gradient and a parameter for every leaf."""

    gradients: Arrays
    params: Arrays


class _View(NamedTuple):
    """What became of one leaf."""

    leaf: Leaf
    gradient: np.ndarray
    parameter: np.ndarray
    clipped: np.ndarray

    def rows(self, x: Any) -> np.ndarray:
        """A row a unit, in float64."""
        return by_unit(np.asarray(x, np.float64), self.leaf.units)

    def expect(self, holds: np.ndarray, what: Callable[[int], str]) -> None:
        """Fails at the first unit where something does not hold, and shows the unit."""
        if np.all(holds):
            return
        unit = int(np.flatnonzero(~holds)[0])
        show = lambda x: show_numbers(self.rows(x)[unit])
        raise LawViolation(
            f"Leaf {self.leaf.path!r} of shape {self.leaf.shape}, units on axes "
            f"{self.leaf.units or 'none'}, unit {unit} of {len(holds)}: {what(unit)}\n"
            f"  gradient   {show(self.gradient)}\n"
            f"  parameter  {show(self.parameter)}\n"
            f"  clipped    {show(self.clipped)}"
        )

    def expect_clipped(
        self, expected: Any, why: str, *, rtol: float = 1e-5, atol: float = 1e-30, where: Any = True
    ) -> None:
        """Fails unless the units are as expected, up to a share of their norms."""
        expected = self.rows(expected)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            error = np.linalg.norm(self.rows(self.clipped) - expected, axis=1)
        close = error <= rtol * np.linalg.norm(expected, axis=1) + atol
        self.expect(close | ~np.broadcast_to(where, close.shape), lambda unit: (
            f"{why} {show_numbers(expected[unit])}, which is "
            f"{error[unit]:.3g} away."
        ))  # fmt: skip


def _views(
    subject: ClippingSubject, case: ClippingCase, clipped: Arrays | None = None
) -> list[_View]:
    clipped = subject.clip(*case) if clipped is None else clipped
    return [_View(*parts) for parts in zip(subject.leaves, *case, clipped, strict=True)]


def _bounds(subject: ClippingSubject, view: _View) -> np.ndarray:
    return view.leaf.bounds(view.parameter, subject.clipping, subject.eps)


def check_bound(subject: ClippingSubject, case: ClippingCase) -> None:
    for view in _views(subject, case):
        norms, bounds = unit_norms(view.clipped, view.leaf.units), _bounds(subject, view)
        view.expect(
            norms <= bounds * (1 + 1e-5),
            lambda unit, norms=norms, bounds=bounds: (
                f"its norm is {norms[unit]:.6g} after clipping, and its bound {bounds[unit]:.6g}."
            ),
        )


def check_identity(subject: ClippingSubject, case: ClippingCase) -> None:
    for view in _views(subject, case):
        norms, bounds = unit_norms(view.gradient, view.leaf.units), _bounds(subject, view)
        bits = [by_unit(x, view.leaf.units).view(np.uint32) for x in (view.gradient, view.clipped)]
        view.expect(
            (norms > bounds * (1 - 1e-6)) | np.all(bits[0] == bits[1], axis=1),
            lambda unit, norms=norms, bounds=bounds: (
                f"its norm {norms[unit]:.6g} is within the bound {bounds[unit]:.6g}; it changed."
            ),
        )


def check_direction(subject: ClippingSubject, case: ClippingCase) -> None:
    for view in _views(subject, case):
        before, after = view.rows(view.gradient), view.rows(view.clipped)
        sizes = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        turned = sizes - np.sum(before * after, axis=1) > 1e-5 * sizes
        lost = np.any(before != 0, axis=1) & ~np.any(after != 0, axis=1)
        view.expect(~turned & ~lost, lambda unit: "it points elsewhere.")


def check_idempotence(subject: ClippingSubject, case: ClippingCase) -> None:
    once = ClippingCase(subject.clip(*case), case.params)
    for view in _views(subject, once):
        view.expect_clipped(view.gradient, "it was clipped before, to")


def check_permutation(subject: ClippingSubject, case: ClippingCase) -> None:
    flip = lambda x, leaf: np.flip(x, leaf.units) if leaf.units else x
    flipped = ClippingCase(
        *([flip(x, leaf) for x, leaf in zip(xs, subject.leaves, strict=True)] for xs in case)
    )
    for view, clipped in zip(_views(subject, flipped), subject.clip(*case), strict=True):
        view.expect_clipped(
            flip(clipped, view.leaf), "with the units in another order it was", rtol=1e-6
        )


def check_joint_scaling(subject: ClippingSubject, case: ClippingCase) -> None:
    scaled = ClippingCase(*([4 * x for x in xs] for xs in case))
    for view, clipped, parameter in zip(
        _views(subject, scaled), subject.clip(*case), case.params, strict=True
    ):
        above = unit_norms(parameter, view.leaf.units) >= subject.eps  # the floor does not scale
        view.expect_clipped(
            4 * clipped, "four times what it was for a quarter of both is", where=above
        )


def check_locality(subject: ClippingSubject, cases: tuple[ClippingCase, ClippingCase]) -> None:
    """The units with odd indices come from another case."""
    masks = [_checkerboard(leaf) for leaf in subject.leaves]
    mixed = ClippingCase(
        *(
            [np.where(mask, a, b) for mask, a, b in zip(masks, *pair, strict=True)]
            for pair in zip(*cases, strict=True)
        )
    )
    alone = [subject.clip(*case) for case in cases]
    for view, mask, first, second in zip(_views(subject, mixed), masks, *alone, strict=True):
        view.expect_clipped(np.where(mask, first, second), "among other units it was", rtol=1e-6)


def _checkerboard(leaf: Leaf) -> np.ndarray:
    indices = np.indices(leaf.shape) if leaf.shape else np.zeros((0,), int)
    return sum((indices[axis] for axis in leaf.units), start=np.zeros(leaf.shape, int)) % 2 == 0


def check_monotone(subject: ClippingSubject, case: ClippingCase) -> None:
    softer, harder = subject.clip(*case), subject.clip_harder(*case)
    for view, soft in zip(_views(subject, case, harder), softer, strict=True):
        norms = unit_norms(view.clipped, view.leaf.units)
        largest = np.minimum(unit_norms(soft, view.leaf.units), _bounds(subject, view) / 4)
        view.expect(
            norms <= largest * (1 + 1e-5),
            lambda unit, norms=norms, largest=largest: (
                f"by a quarter of the ratio its norm becomes {norms[unit]:.6g}, more than "
                f"{largest[unit]:.6g}."
            ),
        )
    again = ClippingCase(softer, case.params)
    for view, expected in zip(
        _views(subject, again, subject.clip_harder(*again)), harder, strict=True
    ):
        view.expect_clipped(expected, "clipped hard at once it was")


def check_closed_form(subject: ClippingSubject, case: ClippingCase) -> None:
    for view in _views(subject, case):
        expected = closed_form(
            view.gradient, view.parameter, view.leaf, subject.clipping, subject.eps
        )
        # Results may fall below the smallest float32.
        view.expect_clipped(expected, "in float64 it is", atol=1e-37)


def check_half_precision(subject: ClippingSubject, case: ClippingCase) -> None:
    for dtype, of_params, rtol in (
        (jnp.float16, jnp.float16, 2e-3),
        (jnp.bfloat16, jnp.bfloat16, 1e-2),
        (jnp.bfloat16, jnp.float32, 1e-2),
    ):
        dtypes = (dtype, of_params)
        half = ClippingCase(
            *([x.astype(d) for x in xs] for xs, d in zip(case, dtypes, strict=True))
        )
        for view in _views(subject, half):
            expected = closed_form(
                np.asarray(view.gradient, np.float64), np.asarray(view.parameter, np.float64),
                view.leaf, subject.clipping, subject.eps,
            )  # fmt: skip
            # float16 has no numbers between zero and 6e-8.
            view.expect_clipped(expected, f"in float64, of {dtype.__name__}, it is", rtol=rtol,
                                atol=2e-7 * np.sqrt(view.gradient.size))  # fmt: skip


def check_containment(subject: ClippingSubject, case: ClippingCase) -> None:
    for view in _views(subject, case):
        expected = closed_form(
            view.gradient, view.parameter, view.leaf, subject.clipping, subject.eps
        )
        finite = np.all(np.isfinite(view.rows(view.gradient)), axis=1)
        view.expect_clipped(expected, "with finite neighbors it is", where=finite)


def check_zeros(subject: ClippingSubject, case: ClippingCase) -> None:
    for params in (case.params, [np.zeros_like(x) for x in case.params]):
        for view in _views(subject, ClippingCase(case.gradients, params)):
            before, after = view.rows(view.gradient), view.rows(view.clipped)
            view.expect(np.all(np.isfinite(after), axis=1), lambda unit: "it is not finite.")
            view.expect(
                np.any(before != 0, axis=1) | np.all(after == 0, axis=1),
                lambda unit: "it was zero.",
            )


def check_structure(subject: ClippingSubject, case: ClippingCase) -> None:
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        gradients, params = (subject.tree([x.astype(dtype) for x in xs]) for xs in case)
        clipped = jax.eval_shape(subject.update, gradients, params)
        expect(
            jax.tree.structure(clipped) == subject.structure,
            lambda clipped=clipped: f"The tree became {jax.tree.structure(clipped)}.",
        )
        for leaf, x in zip(subject.leaves, jax.tree.leaves(clipped), strict=True):
            expect(
                x.shape == leaf.shape and x.dtype == dtype,
                lambda leaf=leaf, x=x, dtype=dtype: (
                    f"Leaf {leaf.path!r}, {dtype.__name__}{leaf.shape}, became {x.dtype}{x.shape}."
                ),
            )


def check_jit(subject: ClippingSubject, case: ClippingCase) -> None:
    trees = (subject.tree([jnp.asarray(x) for x in xs]) for xs in case)
    eager = [np.asarray(x) for x in jax.tree.leaves(subject.update(*trees))]
    for view, expected in zip(_views(subject, case), eager, strict=True):
        view.expect_clipped(expected, "without jit it is", rtol=1e-6)


def check_stacking(subject: ClippingSubject, cases: tuple[ClippingCase, ClippingCase]) -> None:
    stacked = (
        [np.stack(pair) for pair in zip(*pairs, strict=True)] for pairs in zip(*cases, strict=True)
    )
    clipped = subject.clip(*stacked)
    for index, case in enumerate(cases):
        of_stack = [x[index] for x in clipped]
        for view, alone in zip(_views(subject, case, of_stack), subject.clip(*case), strict=True):
            view.expect_clipped(alone, f"module {index} of a stack of two is, alone,", rtol=1e-6)


def check_sharding(subject: ClippingSubject, case: ClippingCase) -> None:
    count = jax.device_count()
    # Repeated until every axis can be split.
    repeat = lambda x: np.tile(x, [count // math.gcd(size, count) for size in x.shape])
    trees = (subject.tree([jnp.asarray(repeat(x)) for x in xs]) for xs in case)
    expect_sharding_invariant(subject.update, *trees)
