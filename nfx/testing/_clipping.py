"""The laws of adaptive gradient clipping."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import hypothesis.strategies as st
import jax
import optax
from hypothesis.strategies import SearchStrategy
from jaxtyping import PyTree

from nfx.optim import UnitsArgument
from nfx.testing import _clipping_checks as checks
from nfx.testing._arrays import (
    arrays_strategy,
    EXTREME_SCALES,
    HALF_SCALES,
    NONFINITE_SCALES,
    ORDINARY_SCALES,
)
from nfx.testing._clipping_subject import clipping_subject, ClippingSubject, Factory
from nfx.testing._law import check_laws, Law


def clipping_cases(
    scales: Sequence[float] = ORDINARY_SCALES, parameter_scales: Sequence[float] | None = None
) -> Callable[[ClippingSubject], SearchStrategy[checks.ClippingCase]]:
    """Returns a strategy of gradients and parameters whose units differ in scale.

    Args:
        scales: Of the units of gradients: see `array_strategy`.
        parameter_scales: Of those of parameters, where they differ.
    """

    def strategy(subject: ClippingSubject) -> SearchStrategy[checks.ClippingCase]:
        shapes = [leaf.shape for leaf in subject.leaves]
        units = [leaf.units for leaf in subject.leaves]
        return st.builds(
            checks.ClippingCase,
            arrays_strategy(shapes, units, scales),
            arrays_strategy(shapes, units, parameter_scales or scales),
        )

    return strategy


def _pairs(
    subject: ClippingSubject,
) -> SearchStrategy[tuple[checks.ClippingCase, checks.ClippingCase]]:
    return st.tuples(clipping_cases()(subject), clipping_cases()(subject))


CLIPPING_LAWS: Mapping[str, Law[ClippingSubject]] = MappingProxyType({
    "closed form": Law(
        statement="the result is that of equation 3 of arXiv:2102.06171 in float64",
        cases=clipping_cases(), holds=checks.check_closed_form,
    ),
    "bound": Law(
        statement="the norm of a unit is at most clipping * max(norm of its parameter, eps)",
        cases=clipping_cases(), holds=checks.check_bound,
    ),
    "identity": Law(
        statement="a unit within its bound, and every excluded leaf, comes back bit for bit",
        cases=clipping_cases(), holds=checks.check_identity,
    ),
    "direction": Law(
        statement="a unit keeps its direction",
        cases=clipping_cases(), holds=checks.check_direction,
    ),
    "idempotence": Law(
        statement="what is clipped is not clipped further",
        cases=clipping_cases(), holds=checks.check_idempotence,
    ),
    "permutation": Law(
        statement="to reorder the units and clip is to clip and reorder",
        cases=clipping_cases(), holds=checks.check_permutation,
    ),
    "joint scaling": Law(
        statement="gradient and parameter scaled alike scale the result, above the floor eps",
        cases=clipping_cases(), holds=checks.check_joint_scaling,
    ),
    "locality": Law(
        statement="a unit depends on its own gradient and parameter alone",
        cases=_pairs, holds=checks.check_locality,
    ),
    "monotone": Law(
        statement="a smaller ratio clips more, and undoes what a larger one did before",
        cases=clipping_cases(), holds=checks.check_monotone,
        applies=lambda subject: subject.harder is not None,
    ),
    "zeros": Law(
        statement="zero parameters give finite results, and zero gradients stay zero",
        cases=clipping_cases(), holds=checks.check_zeros,
    ),
    "range": Law(
        statement="the result is right for gradients and parameters from 1e-25 to 1e25",
        cases=clipping_cases(EXTREME_SCALES), holds=checks.check_closed_form,
    ),
    "half precision": Law(
        statement="in float16 and bfloat16 norms are those of float32 or wider",
        cases=clipping_cases(HALF_SCALES), holds=checks.check_half_precision,
    ),
    "containment": Law(
        statement="a unit with NaN or infinity leaves the others as they are",
        cases=clipping_cases(NONFINITE_SCALES, ORDINARY_SCALES), holds=checks.check_containment,
    ),
    "structure": Law(
        statement="the tree, its missing leaves, shapes and dtypes stay as they are",
        cases=clipping_cases(), holds=checks.check_structure, examples=5,
    ),
    "jit": Law(
        statement="under jit the result is what it is without",
        cases=clipping_cases(), holds=checks.check_jit, examples=50,
    ),
    "stacking": Law(
        statement="a stack of modules is clipped as its modules are alone",
        cases=_pairs, holds=checks.check_stacking,
        applies=lambda subject: subject.knows_modules,
    ),
    "sharding": Law(
        statement="leaves split over devices, on any axis, are clipped as whole ones",
        cases=clipping_cases(), holds=checks.check_sharding, examples=2,
        applies=lambda subject: jax.device_count() > 1 and any(x.shape for x in subject.leaves),
    ),
})  # fmt: skip


def check_clipping(
    clipper: optax.GradientTransformation | Factory,
    *,
    like: PyTree | None = None,
    units: UnitsArgument = None,
    exclude: Sequence[str] = (),
    clipping: float | None = None,
    eps: float = 1e-3,
    laws: Iterable[str] | None = None,
    examples: int = 200,
) -> tuple[str, ...]:
    """Looks for a counterexample to the laws of AGC.

    >>> check_clipping(nfx.optim.adaptive_grad_clip(0.01))
    >>> check_clipping(nfx.optim.adaptive_grad_clip)  # and that a smaller ratio clips more
    >>> check_clipping(mine, like={"w": jnp.zeros((3, 3, 4, 8))}, units={"w": (-1,)})

    Args:
        clipper: An optax transform, or a function that makes one by its `clipping`.
        like: A pytree with the shapes to try it on; by default small modules of every layout. It
            is tried on float32, and may be abstract. Small shapes are quick, and show all.
        units: As of `nfx.optim.adaptive_grad_clip`; by default what the modules declare.
        exclude: Patterns of leaf paths that it is to leave alone.
        clipping: Its ratio; by default 0.01 for a function, and else found out on units of a
            single entry.
        eps: The floor on the parameter norm that it is to have. It cannot be found out: a floor on
            the bound would look like another one here.
        laws: Names of `CLIPPING_LAWS`, by default all. Squares of float32 overflow, so that a
            plain clipper breaks "range" and no other; a policy for what is not finite that
            reaches beyond the unit breaks "containment".
        examples: How many cases to try for each law.

    Returns:
        The names of the laws that were tried and hold. "sharding" takes several devices and
        leaves with axes, "monotone" a function, "stacking" modules that declare their units:
        without, they are left out.

    Raises:
        LawViolation: With the law, the leaf, the unit, by how much, and the smallest
            counterexample.
        ValueError: If there is no law of a name, or an array's units are declared nowhere.
    """
    subject = clipping_subject(
        clipper, like=like, units=units, exclude=exclude, clipping=clipping, eps=eps
    )
    return check_laws(CLIPPING_LAWS, subject, laws, examples)
