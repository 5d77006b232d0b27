"""The laws of scaled weight standardization."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis.strategies import SearchStrategy

from nfx.testing._arrays import array_strategy, show_numbers
from nfx.testing._law import check_laws, expect, Law


Standardize = Callable[[Any, Any], Any]

# A kernel of each rank, outputs last. Small shapes are quick, and show all.
_SHAPES = ((2, 2, 2, 3), (1, 1, 4, 3), (5, 2))

_HEALTHY_SCALES = (1.0, 2.0, 10.0, 0.5, 100.0)
_ALL_SCALES = (1.0, 0.1, 0.01, 1e-3, 1e-4, 10.0, 0.0)

# Below this variance the floors of the rules begin to matter.
_HEALTHY_VARIANCE = 0.05


class KernelCase(NamedTuple):
    """A kernel with its outputs last, and a gain for each."""

    weight: np.ndarray
    gain: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class StandardizationSubject:
    """A standardization, jitted, and the rule it is to follow."""

    fn: Standardize
    rule: Literal["official", "timm"]

    def __call__(self, case: KernelCase) -> np.ndarray:
        return np.asarray(self.fn(*case), np.float64)


def _cases(
    scales: tuple[float, ...] = _HEALTHY_SCALES,
) -> Callable[[StandardizationSubject], SearchStrategy[KernelCase]]:
    def of_shape(shape: tuple[int, ...]) -> SearchStrategy[KernelCase]:
        gains = st.lists(st.sampled_from([1.0, 2.0, 0.5, -1.5]), min_size=shape[-1],
                         max_size=shape[-1])  # fmt: skip
        return st.builds(
            lambda weight, gain: KernelCase(weight, np.asarray(gain, np.float32)),
            array_strategy(shape, (-1,), scales),
            gains,
        )

    return lambda subject: st.one_of(*map(of_shape, _SHAPES))


def _axes(weight: np.ndarray) -> tuple[int, ...]:
    return tuple(range(weight.ndim - 1))


def _fan_in(weight: np.ndarray) -> int:
    return weight.size // weight.shape[-1]


def _variance(weight: np.ndarray) -> np.ndarray:
    return np.var(np.asarray(weight, np.float64), axis=_axes(weight))


def _closed_form(case: KernelCase, rule: str) -> np.ndarray:
    weight, fan_in, variance = case.weight, _fan_in(case.weight), _variance(case.weight)
    if rule == "official":
        scaled = np.maximum(variance * fan_in, 1e-4)
    else:
        scaled = (variance + 1e-5) * fan_in
    centred = weight - np.mean(np.asarray(weight, np.float64), axis=_axes(weight))
    return centred * case.gain / np.sqrt(scaled)


def _expect_close(
    case: KernelCase, actual: Any, expected: Any, why: str, *, where: Any = True, rtol: float = 1e-3
) -> None:
    """Expects outputs to agree up to a share of the gain, which sets their scale."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    error = np.max(np.abs(actual - expected), axis=tuple(range(np.ndim(actual) - 1)), initial=0)
    # The mean of float32 is off by a share of the largest entry, which the scale multiplies.
    spread = np.sqrt(np.maximum(_variance(case.weight), 1e-6))
    offset = np.max(np.abs(case.weight), axis=_axes(case.weight), initial=0) / spread
    allowed = (rtol + 1e-6 * offset) * np.abs(case.gain)
    bad = np.flatnonzero((error > allowed) & np.broadcast_to(where, error.shape))
    expect(not len(bad), lambda: _message(case, int(bad[0]), actual, expected, why))


def _message(case: KernelCase, unit: int, actual: Any, expected: Any, why: str) -> str:
    show = lambda x: show_numbers(np.ravel(x[..., unit]))
    return (
        f"Output {unit} of a kernel of shape {case.weight.shape}, gain {case.gain[unit]}: {why} "
        f"{show(expected)} and not {show(actual)}.\n  kernel  {show(case.weight)}"
    )


def _healthy(case: KernelCase) -> np.ndarray:
    return _variance(case.weight) >= _HEALTHY_VARIANCE


def _check_mean(subject: StandardizationSubject, case: KernelCase) -> None:
    out = subject(case)
    _expect_close(case, out.mean(axis=_axes(out)), np.zeros(out.shape[-1]), "its mean is")


def _check_variance(subject: StandardizationSubject, case: KernelCase) -> None:
    out = subject(case)
    deviation = np.sqrt(_variance(out) * _fan_in(out))
    _expect_close(case, deviation, np.abs(case.gain), "its deviation times the root of its fan-in "
                  "is", where=_healthy(case))  # fmt: skip


def _check_closed_form(subject: StandardizationSubject, case: KernelCase) -> None:
    expected = _closed_form(case, subject.rule)
    _expect_close(
        case, subject(case), expected, f"by the {subject.rule} rule in float64 it is", rtol=1e-4
    )


def _check_shift(subject: StandardizationSubject, case: KernelCase) -> None:
    moved = case._replace(weight=case.weight + np.float32(1.5))
    _expect_close(
        moved, subject(moved), subject(case), "without 1.5 added it is", where=_healthy(case)
    )


def _check_scale(subject: StandardizationSubject, case: KernelCase) -> None:
    scaled = case._replace(weight=case.weight * np.float32(4))
    _expect_close(
        scaled, subject(scaled), subject(case), "divided by 4 it is", where=_healthy(case)
    )


def _check_gain(subject: StandardizationSubject, case: KernelCase) -> None:
    plain = case._replace(gain=np.ones_like(case.gain))
    _expect_close(case, subject(case), subject(plain) * case.gain, "by its gain of one it is")


def _check_idempotence(subject: StandardizationSubject, case: KernelCase) -> None:
    once = subject(case._replace(gain=np.ones_like(case.gain)))
    twice = KernelCase(once.astype(np.float32), case.gain)
    _expect_close(twice, subject(twice), once * case.gain, "standardized already, it is",
                  where=_healthy(case))  # fmt: skip


def _check_locality(subject: StandardizationSubject, case: KernelCase) -> None:
    """Of every other output nothing is left: as if the groups were apart."""
    out = subject(case)
    for unit in range(case.weight.shape[-1]):
        alone = KernelCase(case.weight[..., unit : unit + 1], case.gain[unit : unit + 1])
        other = np.where(np.arange(case.weight.shape[-1]) == unit, case.weight, 7)
        mixed = subject(KernelCase(other.astype(np.float32), case.gain))
        found = mixed[..., unit : unit + 1]
        _expect_close(alone, found, out[..., unit : unit + 1], "among other outputs it was")


def _check_orthogonality(subject: StandardizationSubject, case: KernelCase) -> None:
    target = np.cos(np.arange(case.weight.size, dtype=np.float32)).reshape(case.weight.shape)
    loss = lambda weight: jnp.sum(target * subject.fn(weight, case.gain))
    gradient = np.asarray(jax.grad(loss)(jnp.asarray(case.weight)), np.float64)
    axes, kernel = _axes(gradient), np.asarray(case.weight, np.float64)
    norm = lambda x: np.maximum(np.sqrt(np.sum(x**2, axis=axes)), 1e-9)
    # What the gradient would be if the statistics were constants.
    size = norm(target) / np.sqrt(np.maximum(_variance(kernel) * _fan_in(kernel), 1e-9))
    for direction, name in ((np.ones_like(kernel), "a shift"), (kernel, "the kernel")):
        along = np.sum(gradient * direction, axis=axes) / (size * norm(direction))
        why = f"the share of its gradient along {name} is"
        _expect_close(case, along, np.zeros_like(along), why, where=_healthy(case))


def _check_collapsed(subject: StandardizationSubject, case: KernelCase) -> None:
    """Every output is constant."""
    first = case.weight[tuple([slice(1)] * (case.weight.ndim - 1))]
    constant = KernelCase(np.broadcast_to(first, case.weight.shape).copy(), case.gain)
    out, pull_back = jax.vjp(
        lambda weight: subject.fn(weight, case.gain), jnp.asarray(constant.weight)
    )
    (gradient,) = pull_back(jnp.ones_like(out))
    expect(np.all(np.isfinite(gradient)), lambda: f"The gradient is {np.asarray(gradient)}.")
    _expect_close(constant, out, np.zeros(out.shape), "constant, it becomes")


STANDARDIZATION_LAWS: Mapping[str, Law[StandardizationSubject]] = MappingProxyType({
    "closed form": Law(
        statement="the result is that of the rule in float64, of a collapsed kernel too",
        cases=_cases(_ALL_SCALES), holds=_check_closed_form,
    ),
    "zero mean": Law(
        statement="every output's kernel has mean zero", cases=_cases(), holds=_check_mean,
    ),
    "variance": Law(
        statement="every output's kernel has variance gain^2 / fan-in",
        cases=_cases(), holds=_check_variance,
    ),
    "shift": Law(
        statement="a constant added to a kernel changes nothing",
        cases=_cases(), holds=_check_shift,
    ),
    "positive scale": Law(
        statement="a positive factor on a kernel changes nothing",
        cases=_cases(), holds=_check_scale,
    ),
    "gain": Law(
        statement="the result is in proportion to the gain", cases=_cases(), holds=_check_gain,
    ),
    "idempotence": Law(
        statement="to standardize what is standardized changes the gain alone",
        cases=_cases(), holds=_check_idempotence,
    ),
    "locality": Law(
        statement="an output's kernel depends on itself alone, and so a group on itself",
        cases=_cases(), holds=_check_locality,
    ),
    "orthogonality": Law(
        statement="the gradient is orthogonal to a shift of the kernel and to the kernel",
        cases=_cases(), holds=_check_orthogonality,
    ),
    "collapse": Law(
        statement="a constant kernel becomes zero, with a finite gradient",
        cases=_cases(), holds=_check_collapsed,
    ),
})  # fmt: skip


def check_standardization(
    fn: Standardize,
    *,
    rule: Literal["official", "timm"] = "official",
    laws: Iterable[str] | None = None,
    examples: int = 200,
) -> tuple[str, ...]:
    """Looks for a counterexample to the laws of scaled weight standardization.

    >>> check_standardization(nfx.nn.standardize_weight)
    >>> check_standardization(nfx.nn.standardize_weight_timm, rule="timm")

    Args:
        fn: `(weight, gain) -> kernel`, for kernels with their outputs last, of any rank.
        rule: Whose floor on the variance it is to follow.
        laws: Names of `STANDARDIZATION_LAWS`, by default all.
        examples: How many cases to try for each law.

    Returns:
        The names of the laws that hold.

    Raises:
        LawViolation: With the law, the output, the kernel and what was expected.
        ValueError: If there is no law of a name.
    """
    return check_laws(
        STANDARDIZATION_LAWS, StandardizationSubject(jax.jit(fn), rule), laws, examples
    )
