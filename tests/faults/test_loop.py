"""The loop around the step, with a step that is no network: what is saved, after what."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfx.data import Batch
from nfx.train import Cadence, NotFiniteError, run_training, TrainState


KEY = jax.random.key(0)


class Noted(NamedTuple):
    what: str
    step: int
    value: Any = None


class Observer:
    """Notes what it is told; asks to stop after a step, if it is given one."""

    def __init__(self, stop_at=None):
        self.stop_at, self.seen = stop_at, []

    def log(self, step, metrics, seconds_per_step):
        self.seen.append(Noted("log", step, metrics["loss"]))

    def evaluate(self, step, state):
        self.seen.append(Noted("evaluation", step))

    def checkpoint(self, step, state, unlogged):
        self.seen.append(Noted("checkpoint", step, [record["loss"] for record in unlogged]))
        self.unlogged = unlogged

    def should_stop(self, step, together):
        return step == self.stop_at


def state_of(step):
    return TrainState(jnp.asarray(step, jnp.int32), (), ())


def run(observer, *, first=0, losses=lambda step: float(step), unlogged=(), bad=""):
    """Seven steps, whose losses are their numbers: logged every 4, evaluated and saved every 3.

    In the fifth the metric `bad` is not finite.
    """
    cadence = Cadence(steps=7, log_every=4, evaluate_every=3, checkpoint_every=3)

    def step(state, batch, key):
        number = int(state.step) + 1
        metrics = {"loss": losses(number), "gradient_norm": 1.0, "update_norm": 1.0}
        metrics |= {bad: float("nan")} if bad and number == 5 else {}
        return state_of(number), jax.tree.map(jnp.asarray, metrics)

    batches = itertools.repeat(Batch(np.zeros(1), np.zeros(1)))
    run_training(step, state_of(first), batches, KEY, cadence, observer, unlogged=unlogged)
    return observer.seen


UNDISTURBED = [
    Noted("log", 3, 2.0), Noted("evaluation", 3), Noted("checkpoint", 3, []),
    Noted("log", 4, 4.0),
    Noted("log", 6, 5.5), Noted("evaluation", 6), Noted("checkpoint", 6, []),
    Noted("log", 7, 7.0), Noted("evaluation", 7), Noted("checkpoint", 7, []),
]  # fmt: skip


def test_a_checkpoint_comes_after_every_record_of_its_step():
    """Whoever resumes from it would not make them again."""
    assert run(Observer()) == UNDISTURBED


@pytest.mark.parametrize("at", range(1, 7))
def test_a_stop_at_any_step_loses_no_record(at):
    stopped = Observer(stop_at=at)
    before = run(stopped)
    assert before[-1][:2] == ("checkpoint", at)
    after = run(Observer(), first=at, unlogged=stopped.unlogged)
    records = [noted for noted in before + after if noted.what != "checkpoint"]
    assert records == [noted for noted in UNDISTURBED if noted.what != "checkpoint"]


@pytest.mark.parametrize("stop_at", [None, 5])
@pytest.mark.parametrize("bad", ["loss", "gradient_norm", "update_norm"])
def test_what_is_not_finite_is_never_saved_or_logged(stop_at, bad):
    observer = Observer(stop_at)
    with pytest.raises(NotFiniteError, match=rf"at step 5 the metrics were .*{bad} nan"):
        run(observer, bad=bad)
    assert max(noted.step for noted in observer.seen) == 4
