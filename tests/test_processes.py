"""Runs of several processes: their results, their deaths, and what watches over them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from nfx.cli import main
from nfx.cli._launch import free_port, LaunchCommand, process_commands
from nfx.cli._supervisor import Command, run_together
from nfx.recipes import _opening
from nfx.sharding import group_blocks
from nfx.train import ProcessOptions, without_pace
from tests.flags import QUICK_COMPILES


# One worker runs them all: they share a finished run, and two cores.
pytestmark = pytest.mark.xdist_group("processes")

WORKER = (sys.executable, str(Path(__file__).with_name("worker.py")))
LAUNCH = f"from nfx.cli import _launch, main; _launch._NFX = {WORKER}; raise SystemExit(main())"
SMALL = [
    "--model", "nfnet_nano", "--image-size", "16", "--batch-size", "16", "--steps", "24",
    "--checkpoint-every", "6", "--log-every", "1", "--warmup-steps", "5", "--clipping", "None",
    "--stochastic-depth", "0.5", "--mixup", "0.2", "--cutmix",
]  # fmt: skip
KILLS = {1: 8, 0: 15}  # which process at which step: a worker, and then the coordinator


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with images, for runs and for compiled programs."""
    root = tmp_path_factory.mktemp("processes")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 7)):
        for label in ("noise", "dark"):
            folder = root / "images" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255 if label == "noise" else 99, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def environment(root, devices):
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{QUICK_COMPILES} --xla_force_host_platform_device_count={devices}",
    }


class Started:
    """A command that runs, and what it says."""

    def __init__(self, root, name, command, *, devices=2):
        self.run_dir, self.log = root / name, root / f"{name}.log"
        images = ["--data", str(root / "images"), "--run-dir", str(self.run_dir)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *images, *SMALL],
                env=environment(root, devices), stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def output(self):
        return self.log.read_text()

    def wait_until(self, condition):
        while not condition():
            assert self.process.poll() is None, self.output
            time.sleep(0.005)

    def records(self):
        path = self.run_dir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [without_pace(record) for record in records]

    def pids(self):
        """Of the processes that were started last."""
        found = re.findall(r"nfx launch: processes (\d+), (\d+)", self.output)
        return [int(pid) for pid in found[-1]]

    def wait_for_step(self, step):
        self.wait_until(lambda: any(record["step"] >= step for record in self.records()))

    def result(self):
        assert self.process.wait() == 0, self.output
        return json.loads((self.run_dir / "result.json").read_text())


def launch(root, name, *more, hosts=2, devices=2):
    options = ["--hosts", str(hosts), "--devices-per-host", str(devices), "--max-restarts", "2"]
    command = [sys.executable, "-c", LAUNCH, "launch", *options, "--", "train", *more]
    return Started(root, name, command)


@pytest.fixture(scope="module")
def finished(root):
    started = launch(root, "finished")
    started.result()
    return started


@pytest.fixture(scope="module")
def alone(root):
    started = Started(root, "alone", [*WORKER, "train", "--resume-if-begun"], devices=4)
    started.result()
    return started


def assert_same_training(several, alone):
    """The same up to rounding: sums over processes are taken in another order than within one."""
    for key in ("test_loss", "train_loss", "test_accuracy"):
        assert several.result()[key] == pytest.approx(alone.result()[key], rel=1e-5), key
    losses, expected = (
        [record["loss"] for record in run.records() if "loss" in record] for run in (several, alone)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert len(losses) == 24


def test_two_processes_train_as_one_does(finished, alone):
    assert_same_training(finished, alone)
    assert finished.output.count("Test accuracy") == 1, "one of them speaks"


@pytest.mark.long
def test_four_processes_train_as_one_does(root, alone):
    assert_same_training(launch(root, "four", hosts=4, devices=1), alone)


@pytest.mark.slow
def test_killed_processes_are_replaced_and_the_bits_are_the_same(root, finished):
    started = launch(root, "killed")
    for attempt, (victim, step) in enumerate(KILLS.items(), start=1):
        started.wait_for_step(step)
        pids = started.pids()
        killed = time.monotonic()
        os.kill(pids[victim], signal.SIGKILL)
        started.wait_until(lambda line=f"restart {attempt} of 2": line in started.output)
        assert time.monotonic() - killed < 5
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert f"process {victim} ended with code -9" in started.output
    assert started.result()["params_digest"] == finished.result()["params_digest"]
    assert started.output.count("Resumed from the checkpoint of step") == 2
    assert started.records() == finished.records()


@pytest.mark.slow
def test_a_signal_to_one_stops_all_after_a_checkpoint_and_the_bits_are_the_same(root, finished):
    """And so does one to what watches over them."""
    stopped = launch(root, "stopped")
    for step, to_one in ((8, True), (15, False)):
        stopped.wait_for_step(step)
        pids = stopped.pids()
        os.kill(pids[1] if to_one else stopped.process.pid, signal.SIGTERM)
        assert stopped.process.wait(timeout=60) == 128 + signal.SIGTERM
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        said = re.findall("Stopped by SIGTERM after step (.*), which is saved", stopped.output)
        (saved,) = set(said)
        assert (stopped.run_dir / "checkpoints" / saved / "files.json").exists()
        assert "restart" not in stopped.output
        stopped = launch(root, "stopped", "--resume-if-begun")
    assert stopped.result()["params_digest"] == finished.result()["params_digest"]
    assert f"Resumed from the checkpoint of step {saved}" in stopped.output
    assert stopped.records() == finished.records()


@pytest.fixture
def pair(root, request):
    """Two processes that run a check of `worker.py`; none is left."""
    check, name = request.param
    directory = root / name
    directory.mkdir()
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [*WORKER, check, address, number, str(directory)],
            env=environment(root, 2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in ("0", "1")
    ]  # fmt: skip
    yield directory, processes
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.long
@pytest.mark.parametrize("pair", [("check", "split")], indirect=True)
def test_two_processes_share_batches_and_checkpoints_of_split_states(pair):
    """See `worker.check_together`."""
    for process in pair[1]:
        output = process.stdout.read()
        assert process.wait() == 0, output


@pytest.mark.parametrize(
    ("pair", "victim", "number", "seconds"),
    [
        (("reduce", "coordinator"), 0, signal.SIGKILL, 3),
        (("reduce", "worker"), 1, signal.SIGKILL, 4 + 4),  # the heartbeats' timeout is 4
        (("reduce", "terminated"), 0, signal.SIGTERM, 3),
        # An exception, and then it waits for the others.
        pytest.param(("reduce", "failed"), 1, signal.SIGINT, 10 + 5, marks=pytest.mark.slow),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
    indirect=["pair"],
)
def test_processes_end_when_one_does(pair, victim, number, seconds):
    directory, processes = pair
    while len(list(directory.iterdir())) < 2:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.005)
    processes[victim].send_signal(number)
    began = time.monotonic()
    for process in processes:
        assert process.wait(timeout=seconds) != 0
    assert time.monotonic() - began < seconds


@pytest.mark.slow
def test_a_run_moves_to_another_number_of_processes(root, finished, alone):
    moved = root / "moved"
    shutil.copytree(finished.run_dir, moved)
    (moved / "result.json").unlink()
    for step in (18, 24):
        shutil.rmtree(moved / "checkpoints" / str(step))
    resumed = Started(root, "moved", [*WORKER, "train", "--resume"], devices=4)
    assert_same_training(resumed, alone)
    assert "Resumed from the checkpoint of step 12" in resumed.output


@pytest.mark.parametrize(
    ("blocks", "count", "expected"),
    [
        ({4, 5, 6, 7}, 16, ([1], 4)),
        ({0, 1, 4, 5}, 16, ([0, 2], 8)),
        ({0, 1, 6, 15}, 16, ([0, 1, 6, 15], 16)),
        ({1, 2}, 4, ([1, 2], 4)),
        ({0, 1, 2}, 3, ([0], 1)),
        ({3}, 6, ([3], 6)),
    ],
)
def test_blocks_are_merged_into_the_largest_parts(blocks, count, expected):
    assert group_blocks(blocks, count) == expected


def python(code):
    return Command([sys.executable, "-c", code], dict(os.environ))


SLEEP = "import time; time.sleep(60)"


def test_commands_end_together(capfd):
    assert run_together([python(""), python("print('words')")], grace=5) == 0
    captured = capfd.readouterr()
    assert captured.err == "[1] words\n"
    began = time.monotonic()
    assert run_together([python(SLEEP), python("raise SystemExit(7)")], grace=5) == 7
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    assert run_together([python("raise SystemExit(3)"), python(stubborn)], grace=0.5) == 3
    assert time.monotonic() - began < 10
    output = capfd.readouterr().out
    assert "process 1 ended with code 7" in output
    for pid in re.findall(r"\d{3,}", output):
        assert not Path(f"/proc/{pid}").exists()


def supervise(tmp_path, code, *options):
    """Starts `nfx launch` over processes that run `code` and do not train."""
    fake = f"from nfx.cli import _launch, main; _launch._NFX = {(sys.executable, '-c', code)}"
    arguments = ["launch", "--hosts", "2", *options, "--", "train", "--run-dir", str(tmp_path)]
    return subprocess.Popen(
        [sys.executable, "-c", f"{fake}; raise SystemExit(main())", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_stops_the_supervisor_stops_the_processes(tmp_path, number):
    supervisor = supervise(tmp_path, SLEEP)
    pids = re.findall(r"\d+", supervisor.stdout.readline())
    assert len(pids) == 2
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    supervisor.send_signal(number)
    output, _ = supervisor.communicate(timeout=10)
    assert supervisor.returncode == 128 + number
    assert "interrupted; what was written is kept" in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_hang_up_that_is_ignored_stops_nothing(tmp_path):
    """As `nohup nfx launch`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which processes inherit
    try:
        supervisor = supervise(tmp_path, "import time; time.sleep(1)")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "processes" in supervisor.stdout.readline()
    supervisor.send_signal(signal.SIGHUP)
    output, _ = supervisor.communicate(timeout=10)
    assert (supervisor.returncode, output) == (0, "")


@pytest.mark.parametrize(
    ("code", "restarts", "ending"),
    [
        ("raise SystemExit(1)", 2, 1),
        ("import os; os.abort()", 2, 1),
        ("raise SystemExit(2)", 0, 2),  # a wrong option
        ("", 0, 0),
    ],
)
def test_failures_are_retried_so_many_times(tmp_path, code, restarts, ending):
    supervisor = supervise(tmp_path, code, "--max-restarts", "2")
    output, _ = supervisor.communicate(timeout=20)
    assert supervisor.returncode == ending
    assert len(re.findall(r"restart \d of 2", output)) == restarts
    assert ("giving up after 2 restarts" in output) == (ending == 1)


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_supervisor_does_not_load_jax():
    error = run_python("""
import sys
from nfx.cli import main
assert main(["launch", "--hosts", "1", "--", "predict"]) == 1
assert "jax" not in sys.modules
""")
    assert "got 'predict' to run" in error


def test_where_jax_finds_no_processes_the_options_are_named():
    error = run_python("""
from nfx.cli import main
from tests.flags import QUICK_COMPILES
assert main(["train", "--distributed"]) == 1
""")
    assert "JAX finds no other processes here" in error
    assert "Give --coordinator HOST:PORT" in error


def test_each_process_is_told_who_it_is():
    options = LaunchCommand(hosts=2, devices_per_host=3)
    base = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "HOME": "/root"}
    first, second = process_commands(options, ["train", "--steps", "5"], 123, base)
    assert first.environment["XLA_FLAGS"].split()[-1].endswith("count=3")
    assert first.environment["HOME"] == "/root"
    for number, command in enumerate((first, second)):
        assert list(command.arguments)[-9:] == [
            "train", "--steps", "5", "--coordinator", "127.0.0.1:123", "--processes", "2",
            "--process-id", str(number),
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch", "--hosts", "2"], "got 'nothing' to run"),
        (["launch", "--hosts", "2", "--", "evaluate", "runs/x"], "got 'evaluate runs/x' to run"),
        (["launch", "--hosts", "2", "--", "train"], "train --run-dir DIR"),
        (["train", "--coordinator", "here:1"], "give all three, or --distributed alone"),
        (["train", "--process-id", "0"], "give all three, or --distributed alone"),
        (["train", "--heartbeat-timeout", "0"], "must be at least 1"),
    ],
)
def test_what_does_not_fit_together_is_refused(arguments, message, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distributed": True}, "leave one of them out"),
        ({"coordinator": "here"}, "coordinator='here' must be HOST:PORT"),
        ({"coordinator": "8476"}, "coordinator='8476' must be HOST:PORT"),
        ({"coordinator": ":8476"}, "coordinator=':8476' must be HOST:PORT"),
        ({"process_id": 2}, "process_id=2 must be in 0 ... processes - 1, and processes is 2"),
        ({"process_id": -1}, "process_id=-1 must be in"),
    ],
)
def test_processes_are_told_apart_by_options_that_fit(options, message):
    given = {"coordinator": "here:1", "processes": 2, "process_id": 0, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        ProcessOptions(**given)


@pytest.mark.parametrize("options", [{"hosts": 0}, {"devices_per_host": 0}, {"max_restarts": -1}])
def test_nothing_is_launched_with_numbers_out_of_range(options):
    (name, value), *_ = options.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be at least"):
        LaunchCommand(**{"hosts": 2, **options})


def test_a_run_that_exists_is_not_launched_over(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"recipe": {}}')
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert main(["launch", "--hosts", "2", "--", "train", "--run-dir", str(tmp_path)]) == 1
    assert "holds a run already. Resume it with --resume" in capsys.readouterr().err


def test_several_processes_have_to_share_a_run_directory(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert main(["train", "--model", "nfnet_nano"]) == 1
    assert "give --run-dir DIR, the same to all" in capsys.readouterr().err


def test_a_run_directory_that_is_not_shared_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(_opening, "wait_for_all", lambda name: None)  # process 0 has come and gone
    assert main(["train", "--run-dir", str(tmp_path / "here")]) == 1
    assert "Process 1 does not see the run in" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
