"""Losses, evaluation, the loop and what it writes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfx.augment import Augmentation
from nfx.data import Batch, evaluation_batches, Images
from nfx.sharding import make_mesh, prefetch_batches
from nfx.train import (
    Cadence,
    EvaluationCounts,
    make_evaluation_step,
    MetricsLog,
    one_hot,
    Preprocessing,
    read_metrics,
    run_evaluation,
    run_outcomes,
    run_training,
    RunDirectory,
    RunDirectoryError,
    smoothed_cross_entropy,
    TrainingError,
    TrainState,
)
from tests.disk import full_disk
from tests.reference import official_model, tiny_overrides


PREPROCESSING = Preprocessing((0.5,), (0.25,), Augmentation())


def test_smoothing_moves_a_share_of_the_target_to_all_classes():
    logits = jnp.asarray([2.0, 0.0, -1.0, 0.5])
    targets = one_hot(jnp.asarray([0]), 4)[0]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    expected = -(0.9 * log_p[0] + 0.1 * log_p.mean())
    np.testing.assert_allclose(smoothed_cross_entropy(logits, targets, 0.1), expected, rtol=1e-6)
    half = smoothed_cross_entropy(logits.astype(jnp.bfloat16), targets, 0.1)
    assert half.dtype == jnp.float32


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [4, 16])
def test_evaluation_is_exact_over_a_ragged_last_batch(batch_size):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 16, 16, 3), np.uint8)
    test = Images.from_arrays(images, np.arange(10), [str(i) for i in range(10)])
    model = official_model("nfnet_f0", num_classes=10, **tiny_overrides())
    pixels = (images.astype(np.float32) / 255 - 0.5) / 0.25
    logits = np.asarray(jax.jit(lambda model, x: jax.vmap(model)(x))(model, pixels))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))

    mesh = make_mesh({"data": 4}, jax.devices()[:4])
    step = make_evaluation_step(PREPROCESSING, mesh)
    batches = prefetch_batches(evaluation_batches(test, batch_size), mesh)
    other = jax.tree.map(lambda x: 0 * x, model)
    found, blind = run_evaluation(step, (model, other), None, batches)
    assert found.examples == blind.examples == 10
    assert found.accuracy == (logits.argmax(1) == np.arange(10)).mean()
    assert found.loss == pytest.approx(-log_p[np.arange(10), np.arange(10)].mean(), rel=1e-5)
    assert blind.loss == pytest.approx(np.log(10), rel=1e-5)


def test_an_evaluation_of_no_image_is_refused():
    counts = EvaluationCounts(*jnp.zeros(3))
    with pytest.raises(ValueError, match="None of the images"):
        run_evaluation(lambda *_: counts, [None], None, [Batch(None, None)])


def counting_step(losses):
    """A step that does nothing but report the next loss."""

    def step(state, batch, key):
        loss = losses[int(state.step)]
        metrics = {"loss": jnp.asarray(loss), "gradient_norm": jnp.asarray(1.0)}
        return TrainState(state.step + 1, state.model, state.opt_state), metrics

    return step


class Recorder:
    def __init__(self, stop_at=None):
        self.logged, self.saved, self.evaluated, self.stop_at = {}, [], [], stop_at

    def log(self, step, metrics, pace):
        self.logged[step] = metrics

    def checkpoint(self, step, state, unlogged):
        assert int(state.step) == step
        self.saved.append(step)
        self.unlogged = unlogged

    def should_stop(self, step, together):
        return step == self.stop_at

    def evaluate(self, step, state):
        self.evaluated.append(step)


def loop(losses, first=0, *, stop_at=None, unlogged=()):
    recorder = Recorder(stop_at)
    batches = iter([Batch(np.zeros((4, 1)), np.zeros(4))] * len(losses))
    state = TrainState(jnp.asarray(first, jnp.int32), {}, {})
    cadence = Cadence(steps=len(losses), log_every=2, evaluate_every=4, checkpoint_every=3)
    run_training(
        counting_step(losses), state, batches, jax.random.key(0), cadence, recorder,
        unlogged=unlogged,
    )  # fmt: skip
    return recorder


def test_everything_is_done_when_it_is_due_and_at_the_end():
    recorder = loop([1.0, 3.0, 5.0, 7.0, 9.0])
    assert recorder.saved == [3, 5]
    assert recorder.evaluated == [4, 5]
    means = {step: metrics["loss"] for step, metrics in recorder.logged.items()}
    assert means == {2: 2.0, 3: 5.0, 4: 7.0, 5: 9.0}
    assert recorder.logged[2]["last_loss"] == 3.0


def test_a_resumed_loop_does_what_is_left():
    assert loop([1.0, 3.0, 5.0, 7.0, 9.0], first=3).saved == [5]


LOSSES = [1.1, 3.2, 5.3, 7.4, 9.5, 2.6, 0.7]


@pytest.mark.parametrize("stop_at", range(1, len(LOSSES)))
def test_a_loop_that_is_stopped_and_resumed_records_the_same(stop_at):
    stopped = loop(LOSSES, stop_at=stop_at)
    assert stopped.saved[-1] == stop_at
    unlogged = json.loads(json.dumps(stopped.unlogged))
    assert len(unlogged) == stop_at - max(stopped.logged, default=0)
    resumed = loop(LOSSES, first=stop_at, unlogged=unlogged)
    assert {**stopped.logged, **resumed.logged} == loop(LOSSES).logged


def test_a_loop_does_not_save_what_is_not_finite_when_it_is_stopped():
    with pytest.raises(TrainingError, match="at step 1 "):
        loop([np.nan, 1.0, 1.0], stop_at=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(bad):
    message = r"at step 2 the metrics were .*loss (nan|inf).*Lower the"
    with pytest.raises(TrainingError, match=message) as error:
        loop([1.0, bad, 2.0, 2.0])
    assert "Nothing was saved since the last checkpoint" in str(error.value)


def test_a_cadence_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        Cadence(steps=10, log_every=0, evaluate_every=1, checkpoint_every=1)


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path):
    with MetricsLog(tmp_path, step=0) as log:
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 6, "lo')  # cut off by a crash
    with MetricsLog(tmp_path, step=3) as log:
        assert log.latest["loss"] == 3.0
        log.write(4, {"loss": 40.0})
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_record_that_cannot_be_written_is_an_error_that_names_its_file(tmp_path):
    board = Closed()
    log = MetricsLog(tmp_path, step=0, boards=[board])
    log.write(1, {"loss": 1.0})
    log.sync()
    message = r"metrics\.jsonl' cannot be written \(File too large\)\. Make room"
    with full_disk(100), pytest.raises(RunDirectoryError, match=message), log:
        log.write(2, {"shares": [1.0] * 100})
    assert board.closed
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]
    with full_disk(10), pytest.raises(RunDirectoryError, match=message):
        MetricsLog(tmp_path, step=1)  # which writes what it keeps anew
    assert len(read_metrics(tmp_path)) == 1


def test_a_damaged_record_is_named(tmp_path):
    directory = RunDirectory.create(tmp_path, {"recipe": {}})
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\x00\xff\n{"step": 3}\n')
    message = r"metrics\.jsonl' is damaged in line 2 \(.*\)\. Put the file back .* remove that line"
    with pytest.raises(RunDirectoryError, match=message):
        read_metrics(tmp_path)
    (tmp_path / "result.json").write_text('{"steps":')
    with pytest.raises(RunDirectoryError, match=r"result\.json' is damaged \(.*or remove it"):
        _ = directory.result


class Closed:
    closed = False

    def write(self, step, scalars):
        """Shows nothing."""

    def close(self):
        self.closed = True


def test_what_is_written_by_one_process_is_not_waited_for_by_others(tmp_path):
    with MetricsLog(tmp_path, step=0, writes=False) as log:
        log.write(1, {"loss": 1.0})
        log.sync()
    assert not list(tmp_path.iterdir())


def test_a_run_directory_holds_one_run(tmp_path):
    run = RunDirectory.create(tmp_path / "run", {"recipe": {"seed": 1}})
    assert RunDirectory.open(tmp_path / "run").config == {"recipe": {"seed": 1}}
    (run.checkpoints / "0").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"Resume it with --resume, or choose another"):
        RunDirectory.create(tmp_path / "run", {"recipe": {}})
    with pytest.raises(RunDirectoryError, match="is not a run directory"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run" / "config.json").write_text('{"recipe":')
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        RunDirectory.open(tmp_path / "run")


def test_a_run_that_has_saved_nothing_gives_way_and_takes_its_own_files_along(tmp_path):
    run = RunDirectory.create(tmp_path, {"recipe": {"seed": 1}})
    for name in ("metrics.jsonl", "bad_images-1.jsonl", "hang-1.txt", "wandb-id.txt", "mine.jsonl"):
        (tmp_path / name).touch()
    (run.checkpoints / "0.orbax-checkpoint-tmp").mkdir(parents=True)  # it was killed in a save
    RunDirectory.create(tmp_path, {"recipe": {"seed": 2}})
    assert RunDirectory.open(tmp_path).config["recipe"]["seed"] == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"config.json", "checkpoints", "mine.jsonl"}


def test_a_configuration_of_something_else_is_left_alone(tmp_path):
    """As that of a model of another library."""
    path = tmp_path / "config.json"
    path.write_text('{"model_type": "llama"}')
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(RunDirectoryError, match=r"has a config\.json that is of no run"):
        RunDirectory.create(tmp_path, {"recipe": {}})
    assert path.read_text() == '{"model_type": "llama"}'
    assert (tmp_path / "metrics.jsonl").exists()
    with pytest.raises(RunDirectoryError, match=r"is not a run directory: .*it has no recipe"):
        RunDirectory.open(tmp_path)


def test_there_have_to_be_images_to_evaluate_on():
    with pytest.raises(ValueError, match="There are no images to evaluate on"):
        run_evaluation(lambda *_: None, [{}], None, [])
    with pytest.raises(ValueError, match="There are no images to evaluate on"):
        run_outcomes(lambda *_: None, {}, None, [])
