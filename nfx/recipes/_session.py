"""A run's training: from its last checkpoint to its end, back and on if a step fails."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from nfx.checkpoint import CheckpointStore, restore_latest
from nfx.data import ImageError, Images, kept_batch, training_indices
from nfx.recipes._build import abstract_batch, Parts
from nfx.recipes._evaluation import compile_evaluation, evaluate_state, RunEvaluation
from nfx.recipes._feed import Feed
from nfx.recipes._options import RunOptions
from nfx.recipes._recipe import Recipe
from nfx.recipes._start import start_from
from nfx.train import (
    abstract_state,
    Cadence,
    compile_for_all,
    create_state,
    Display,
    EvaluationCounts,
    HangWatch,
    is_first_process,
    MetricsLog,
    NonfiniteLog,
    NonfiniteStep,
    NotFiniteError,
    number_of_first,
    open_boards,
    Pace,
    run_training,
    RunDirectory,
    StopRequest,
    TrainState,
)


# Batches that a run leaves out before it takes itself for one that diverges.
_MOST_LEFT_OUT = 5

_Unlogged = Sequence[Mapping[str, Any]]


def cadence_of(recipe: Recipe, options: RunOptions) -> Cadence:
    """Returns when something is due in a run."""
    return Cadence(
        steps=recipe.steps,
        log_every=options.log_every,
        evaluate_every=options.evaluate_every,
        checkpoint_every=options.checkpoint_every,
    )


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a run is watched by.

    Attributes:
        watch: Tells of hangs.
        stop: Asks it to stop.
        nonfinite: Lists steps that were not finite.
    """

    watch: HangWatch
    stop: StopRequest
    nonfinite: NonfiniteLog


@dataclasses.dataclass
class Session:
    """What a run needs to train, and the programs that it has compiled."""

    recipe: Recipe
    options: RunOptions
    parts: Parts
    feed: Feed
    store: CheckpointStore
    display: Display
    directory: RunDirectory
    guard: Guard
    _training_step: jax.stages.Compiled | None = None
    _evaluation_step: jax.stages.Compiled | None = None

    def run(self) -> tuple[TrainState, RunEvaluation | None, Mapping[str, Any]]:
        """Trains to the last step, or until the run is to stop.

        Returns:
            The state, its evaluation if it is that of the last step, and the latest metrics.

        Raises:
            NotFiniteError: If a step is not finite and its batch is not to be left out.
        """
        while True:
            state, unlogged = self._first_state()
            if is_first_process() and int(state.step) < self.recipe.steps:
                self.directory.remove_result()
            with self._metrics_log(int(state.step)) as log:
                observer = _Observer(self, log)
                try:
                    state = self._fit(state, unlogged, observer)
                except NotFiniteError as error:
                    self._leave_out(error)
                    continue
                evaluation = None
                if int(state.step) == self.recipe.steps:
                    evaluation = observer.evaluation or self.measure(state)
                self.store.wait()
                return state, evaluation, log.latest

    def _metrics_log(self, step: int) -> MetricsLog:
        writes, project = is_first_process(), self.options.wandb
        say, boards = self.display.say, ()
        if writes:
            boards = open_boards(self.directory, step=step, say=say, wandb_project=project)
        return MetricsLog(self.directory.path, step=step, boards=boards, writes=writes)

    def measure(self, state: TrainState) -> RunEvaluation:
        """Evaluates a state on the test images."""
        watch = self.guard.watch
        if self._evaluation_step is None:
            with watch.paused():
                self._evaluation_step = compile_evaluation(
                    state.model, state.statistics, self.parts.preprocessing, self.feed
                )
        compiled = self._evaluation_step

        def step(*arguments: Any) -> EvaluationCounts:
            watch.report()
            return compiled(*arguments)

        return evaluate_state(step, state, self.feed)

    def _first_state(self) -> tuple[TrainState, _Unlogged]:
        """The last checkpoint that is whole, or where there is none the state of step 0."""
        parts, store, mesh = self.parts, self.store, self.feed.mesh
        store.wait()
        latest = number_of_first(max(store.steps(), default=-1))
        if latest < 0:
            return jax.block_until_ready(self._new_state()), ()
        like = abstract_state(parts.build_model, parts.optimizer, mesh)
        restored = restore_latest(store, like, latest=latest)
        assert restored is not None  # there is one, or it raises
        step, state = restored
        self.display.say(f"Resumed from the checkpoint of step {step:,}.")
        return state, store.progress(step).get("unlogged", ())

    def _new_state(self) -> TrainState:
        """The state of step 0, which is saved if it is from weights: they may not stay there."""
        recipe, parts, mesh = self.recipe, self.parts, self.feed.mesh
        if not recipe.init:
            with self.display.timed("Initializing the parameters"):
                return create_state(parts.build_model, parts.optimizer, mesh)
        with self.display.timed("Loading the weights to start from"):
            state, words = start_from(recipe, parts, mesh)
        self.display.say(words)
        self.store.save(0, state, self.directory.config)
        return state

    def _fit(self, state: TrainState, unlogged: _Unlogged, observer: "_Observer") -> TrainState:
        """Compiles the step and trains with it."""
        recipe, parts, feed, guard = self.recipe, self.parts, self.feed, self.guard
        first_step = int(state.step)
        if first_step == recipe.steps:
            return state
        # Images are loaded while the step is compiled.
        batches = feed.training(
            recipe.batch_size,
            seed=recipe.seed,
            first_step=first_step,
            left_out=guard.nonfinite.left_out,
        )
        if self._training_step is None:
            self._training_step = self._compile(state)
        guard.stop.has_work = True
        guard.watch.report()  # the first batch may be what never comes
        cadence = cadence_of(recipe, self.options)
        self.display.begin(first_step)
        return run_training(
            self._training_step, state, batches, parts.key, cadence, observer, unlogged=unlogged
        )

    def _compile(self, state: TrainState) -> jax.stages.Compiled:
        parts, mesh = self.parts, self.feed.mesh
        step = parts.train_step(mesh)
        with self.display.timed("Compiling the training step"):
            batch = abstract_batch(parts.images.train, self.recipe.batch_size, mesh)
            return compile_for_all(step, state, batch, parts.key, name="training step")

    def _leave_out(self, error: NotFiniteError) -> None:
        """Takes note of a step that was not finite; raises unless its batch is to be left out."""
        log, images = self.guard.nonfinite, self.parts.images.train
        number = error.step - 1
        indices = training_indices(
            len(images),
            self.recipe.batch_size,
            seed=self.recipe.seed,
            batch=number,
            left_out=log.left_out,
        )
        found = NonfiniteStep(
            step=error.step,
            batch=kept_batch(number, log.left_out),
            images=[_image_name(images, index) for index in indices],
            left_out=self.options.on_nonfinite == "skip" and len(log.left_out) < _MOST_LEFT_OUT,
        )
        log.take(found)
        words = f"{found}; {str(log.path)!r} lists them"
        if not found.left_out:
            skipped = f"; {len(log.left_out)} batches were left out before" if log.left_out else ""
            raise NotFiniteError(error.step, error.values, words + skipped) from error
        self.guard.watch.report()
        self.display.say(
            f"WARNING: step {error.step} was not finite: {error.values}. {words}. Its batch is "
            f"left out ({len(log.left_out)} of at most {_MOST_LEFT_OUT}), going on from the last "
            "checkpoint."
        )


class _Observer:
    """What a run does with its state as training goes: an `nfx.train.Observer`."""

    def __init__(self, session: Session, log: MetricsLog):
        self.evaluation: RunEvaluation | None = None
        self._evaluated = -1  # at which step
        self._session, self._log, self._stops = session, log, False

    def log(self, step: int, metrics: Mapping[str, Any], pace: Pace) -> None:
        self._log.write(step, {**metrics, **pace._asdict()})
        self._session.display.update(step, self._log.latest)

    def should_stop(self, step: int, together: bool) -> bool:
        self._session.guard.watch.report()
        self._stops = self._session.guard.stop.agreed(together=together)
        return self._stops

    def checkpoint(self, step: int, state: TrainState, unlogged: _Unlogged) -> None:
        session = self._session
        evaluation = self.evaluation if step == self._evaluated else None
        self._log.sync()
        session.store.save(
            step,
            state,
            session.directory.config,
            progress={"unlogged": list(unlogged)},
            score=evaluation and evaluation.ema.accuracy,
            blocking=self._stops or step == session.recipe.steps,
        )

    def evaluate(self, step: int, state: TrainState) -> None:
        evaluation = self._session.measure(state)
        self._log.write(step, evaluation.metrics())
        self._session.display.say(
            f"step {step:>6,}  loss {self._log.latest['loss']:.3f}  "
            f"test accuracy {evaluation.ema.accuracy:.1%} (raw {evaluation.raw.accuracy:.1%})"
        )
        self.evaluation, self._evaluated = evaluation, step


def _image_name(images: Images, index: int) -> str:
    """What an image is called, without decoding it."""
    try:
        return images.source[index].name
    except ImageError as error:
        return error.name or f"image {index}"
