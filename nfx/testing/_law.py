"""Laws: statements about a user's function, which Hypothesis tries to refute."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis.errors import Flaky, UnsatisfiedAssumption
from hypothesis.strategies import SearchStrategy
from jaxtyping import PyTree

from nfx._names import did_you_mean
from nfx._tree import leaves_by_path


Subject = TypeVar("Subject")


class LawViolation(AssertionError):  # noqa: N818 - what a law does not hold for is no error
    """A law that does not hold: which, where, by how much, and the smallest counterexample."""


# Whatever it takes: a law is not to fail for being slow.
_HEALTH_CHECKS: Any = tuple(hypothesis.HealthCheck)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Law(Generic[Subject]):
    """A statement that holds for every case, or is refuted by one.

    Attributes:
        statement: What holds, in a sentence.
        cases: What to try it on: a strategy, made for the subject.
        holds: Raises a `LawViolation` if it does not hold for a subject and a case.
        applies: Whether the law says anything about a subject.
        examples: The most cases to try, where fewer than usual will do.
    """

    statement: str
    cases: Callable[[Subject], SearchStrategy[Any]]
    holds: Callable[[Subject, Any], None]
    applies: Callable[[Subject], bool] = lambda subject: True
    examples: int | None = None

    def check(
        self, subject: Subject, *, name: str = "", examples: int = 200, shrink: bool = True
    ) -> None:
        """Looks for a counterexample, always the same ones in the same order.

        Args:
            subject: What the law is about.
            name: What to call the law in the error.
            examples: How many cases to try.
            shrink: Whether to look for the smallest counterexample, which takes longer.

        Raises:
            LawViolation: With the smallest counterexample that was found.
        """

        @hypothesis.settings(
            max_examples=min(examples, self.examples or examples),
            deadline=None,
            derandomize=True,
            database=None,
            report_multiple_bugs=False,
            phases=[hypothesis.Phase.generate] + [hypothesis.Phase.shrink] * shrink,
            suppress_health_check=_HEALTH_CHECKS,
        )
        @hypothesis.given(self.cases(subject))
        def run(case: Any) -> None:
            try:
                self.holds(subject, case)
            except (LawViolation, UnsatisfiedAssumption):
                raise
            except Exception as error:
                raise LawViolation(f"It raises {type(error).__name__}: {error}") from error

        try:
            run()
        except (LawViolation, Flaky) as violation:
            flaky = isinstance(violation, Flaky)
            finding = "It gives different results for the same input." if flaky else violation
            # From the error of the function itself, if it raised one.
            raise violated(name, self.statement, finding) from violation.__cause__


def violated(name: str, statement: str, finding: object) -> LawViolation:
    """Returns what to raise of a law, by its name and what it states."""
    return LawViolation(f"Law {name!r}: {statement}\n{finding}")


def matching_leaves(
    found: PyTree, expected: PyTree, what: str = "leaf"
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the paths of two trees' leaves, what each is and what it is to be.

    Args:
        found: A tree.
        expected: What it is to be.
        what: What a leaf is called.

    Raises:
        LawViolation: If one has leaves that the other has not.
    """
    found, expected = leaves_by_path(found), leaves_by_path(expected)
    missing, new = expected.keys() - found.keys(), found.keys() - expected.keys()
    for paths, problem in ((missing, "is missing"), (new, "is new")):
        if paths:
            others = f", and so are {len(paths) - 1} more" if len(paths) > 1 else ""
            raise LawViolation(f"The {what} {min(paths)!r} {problem}{others}.")
    for path, leaf in expected.items():
        yield path, found[path], leaf


def inexact_leaves(tree: PyTree) -> list[Any]:
    """Returns the leaves of a tree that can be differentiated by."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def check_laws(
    laws: Mapping[str, Law[Subject]],
    subject: Subject,
    chosen: Iterable[str] | None,
    examples: int,
) -> tuple[str, ...]:
    """Checks laws one by one, and returns the names of those that apply.

    Raises:
        LawViolation: If one does not hold.
        ValueError: If there is no law of a chosen name.
    """
    names = tuple(laws if chosen is None else chosen)
    for name in names:
        if name not in laws:
            raise ValueError(f"Unknown law {name!r}. {did_you_mean(name, laws)}")
    applying = tuple(name for name in names if laws[name].applies(subject))
    for name in applying:
        laws[name].check(subject, name=name, examples=examples)
    return applying


def expect(condition: Any, message: Callable[[], str]) -> None:
    """Raises a `LawViolation` unless `condition` holds everywhere."""
    if not np.all(condition):
        raise LawViolation(message())
