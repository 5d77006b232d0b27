"""The laws hold for nfx, and every planted bug breaks one.

The table of bugs and laws in `docs/laws.md` is made here: `python -m tests.test_laws`.
"""

import sys
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfx
from nfx.testing import (
    check_clipping,
    check_example_independence,
    check_sharding_invariant,
    check_standardization,
    CLIPPING_LAWS,
    LawViolation,
    STANDARDIZATION_LAWS,
)
from nfx.testing._clipping_subject import clipping_subject
from nfx.testing._law import matching_leaves
from nfx.testing._standardization import _expect_close, KernelCase, StandardizationSubject
from tests import planted


PAGE = Path(__file__).parent.parent / "docs" / "laws.md"

# Cases that are tried on a bug; the law of sharding compiles much for each.
EXAMPLES = 100
SHARDING_BUGS = ("optax.adaptive_grad_clip",)


@pytest.mark.parametrize("law", CLIPPING_LAWS)
def test_clipping_is_lawful(law, law_examples):
    clipper = nfx.optim.adaptive_grad_clip
    assert check_clipping(clipper, laws=[law], examples=law_examples) == (law,)


@pytest.mark.parametrize("law", STANDARDIZATION_LAWS)
@pytest.mark.parametrize("rule", ["official", "timm"])
def test_standardization_is_lawful(law, rule, law_examples):
    fn = nfx.nn.STANDARDIZATIONS[rule]
    assert check_standardization(fn, rule=rule, laws=[law], examples=law_examples) == (law,)


@pytest.mark.long
def test_without_a_bug_the_planted_ones_are_lawful():
    """So that it is the bug that is caught."""
    with jax.numpy_dtype_promotion("standard"):
        check_clipping(planted.clipper(), examples=50)
    check_standardization(planted.standardization(), examples=50)


def test_sharding_is_checked_beside_infinities_and_for_booleans():
    scale = lambda x: x * (1 if jax.sharding.get_abstract_mesh().empty else 2)
    for wrong in (
        lambda x: jnp.concatenate([scale(x), jnp.full_like(x[:1], -jnp.inf)]),
        lambda x: scale(x) > 1,
    ):
        with pytest.raises(LawViolation, match="entries of result 'alone' are off"):
            check_sharding_invariant(wrong, jnp.linspace(0, 2, 16))


def test_the_error_of_a_function_is_the_cause_of_the_violation():
    def fails(weight, gain):
        raise KeyError("mine")

    with pytest.raises(LawViolation, match="It raises KeyError: 'mine'") as violation:
        check_standardization(fails, laws=["gain"], examples=1)
    frames = [frame.name for frame in traceback.extract_tb(violation.value.__cause__.__traceback__)]
    assert "fails" in frames


def test_what_would_hold_of_anything_is_no_law():
    with pytest.raises(ValueError, match="batch_size=1 must be at least 2"):
        check_example_independence(jax.vmap(jnp.sum), batch_size=1)
    for arguments in ((jnp.zeros(()),), (jnp.zeros((7, 3)),)):
        with pytest.raises(ValueError, match="No axis of the arguments can be split over 8"):
            check_sharding_invariant(jnp.sin, *arguments)
    clipper, like = nfx.optim.adaptive_grad_clip(0.01, units=()), {"scale": jnp.zeros(())}
    assert check_clipping(clipper, like=like, units=(), laws=["sharding"]) == ()


def test_small_weights_allow_no_larger_an_error():
    case = KernelCase(np.asarray([[1e-4], [-1e-4]], np.float32), np.ones(1, np.float32))
    exact = np.asarray([[1.0], [-1.0]])
    _expect_close(case, exact + 0.9e-3, exact, "it is")
    with pytest.raises(LawViolation, match="it is"):
        _expect_close(case, exact + 1.5e-3, exact, "it is")


def test_leaves_that_are_not_there_are_counted():
    expected = {"a": 1, "b": 1, "c": 1}
    for found, message in (
        ({"a": 1}, "'b' is missing, and so are 1 more"),
        ({"a": 1, "b": 1}, r"'c' is missing\."),
    ):
        with pytest.raises(LawViolation, match=message):
            list(matching_leaves(found, expected))


def test_examples_may_be_mapped_by_a_model_with_an_optional_key():
    model = nfx.nn.StochasticDepth(0.5)  # called as every nfx model: (x, *, key=None)
    check_example_independence(jax.vmap(lambda x, *, key=None: model(x, key=key)))
    check_example_independence(jax.vmap(lambda x, scale=2.0: x * scale))


@pytest.mark.slow
@pytest.mark.parametrize("bug", planted.OTHERS)
def test_other_laws_hold_and_catch(bug):
    _, law, right, wrong = planted.OTHERS[bug]
    if law is planted.ledger:
        right, wrong = right(), wrong()
    law(right)
    with pytest.raises(LawViolation):
        law(wrong)


def broken(laws, subject, *, but=()):
    """The laws that do not hold for a subject."""
    found = set()
    for name, law in laws.items():
        try:
            if name not in but:
                law.check(subject, examples=EXAMPLES, shrink=False)
        except LawViolation:
            found.add(name)
    return found


def broken_clipping_laws(bug):
    subject = clipping_subject(planted.CLIPPERS[bug], clipping=0.01, eps=1e-3)
    return broken(CLIPPING_LAWS, subject, but=() if bug in SHARDING_BUGS else ("sharding",))


def broken_standardization_laws(bug):
    subject = StandardizationSubject(jax.jit(planted.STANDARDIZATIONS[bug]), "official")
    return broken(STANDARDIZATION_LAWS, subject)


def table(laws, found):
    """A table in Markdown: a row a bug, a column a law."""
    lines = ["| bug | " + " | ".join(laws) + " |", "|---|" + ":-:|" * len(laws)]
    for bug, caught in found.items():
        cells = ["x" if law in caught else "" for law in laws]
        lines.append(f"| {bug} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def found_by_laws(broken_laws, bugs):
    with jax.numpy_dtype_promotion("standard"):  # users' own
        return {bug: broken_laws(bug) for bug in bugs}


def check_table(found, laws):
    assert not [bug for bug, caught in found.items() if not caught]
    assert set().union(*found.values()) == set(laws)
    made = table(laws, found).splitlines()
    page = PAGE.read_text().splitlines()
    written = page[page.index(made[0]) :][: len(made)]
    cells = [[row.split("|") for row in rows] for rows in (made, written)]
    assert [row[1] for row in cells[0]] == [row[1] for row in cells[1]]
    # Versions of Hypothesis try other cases, and a law that catches a bug rarely may miss it.
    differ = [a != b for rows in zip(*cells, strict=True) for a, b in zip(*rows, strict=True)]
    assert sum(differ) <= 5


@pytest.mark.long  # one or two minutes
@pytest.mark.slow
def test_every_clipping_bug_is_caught_and_every_law_catches():
    check_table(found_by_laws(broken_clipping_laws, planted.CLIPPERS), CLIPPING_LAWS)


@pytest.mark.slow
def test_every_standardization_bug_is_caught_and_every_law_catches():
    found = found_by_laws(broken_standardization_laws, planted.STANDARDIZATIONS)
    check_table(found, STANDARDIZATION_LAWS)


if __name__ == "__main__":
    assert jax.device_count() > 1, "set XLA_FLAGS=--xla_force_host_platform_device_count=8"
    for check, bugs, laws in (
        (broken_clipping_laws, planted.CLIPPERS, CLIPPING_LAWS),
        (broken_standardization_laws, planted.STANDARDIZATIONS, STANDARDIZATION_LAWS),
    ):
        sys.stdout.write(table(laws, found_by_laws(check, bugs)) + "\n\n")
