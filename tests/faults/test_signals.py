"""Signals, hangs and locks, without training."""

import contextlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

import jax
import pytest

from nfx.cli._supervisor import Command, run_together
from nfx.train import (
    HangWatch,
    lock_directory,
    RunDirectoryError,
    stop_on_signals,
    StopRequest,
)
from tests.disk import full_disk


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_is_noted_and_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    request = StopRequest()
    request.has_work = True
    with stop_on_signals(request):
        assert not request.agreed(together=True)
        signal.raise_signal(number)
        wait_until(lambda: request.agreed(together=False))
    assert request.signal == number
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "stopping once a checkpoint is saved" in capfd.readouterr().err


BUSY = """
import sys, time
from nfx.train import stop_on_signals, StopRequest
request = StopRequest()
request.has_work = {has_work}
with stop_on_signals(request):
    print("ready", flush=True)
    {wait}
"""


# A wait in C that no signal interrupts: for a mutex that is locked already.
WAIT_FOR_EVER = """
    import ctypes
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex), libc.pthread_mutex_lock(mutex)
"""


def busy(has_work, wait="time.sleep(60)"):
    code = BUSY.format(has_work=has_work, wait=wait)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_with_nothing_to_save_the_first_signal_exits_at_once(number):
    process = busy(has_work=False)
    process.send_signal(number)
    _, error = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert "before there was anything to save" in error


def test_who_exits_at_once_shows_the_cursor_again():
    """Which a bar of progress hides."""
    ours, theirs = pty.openpty()
    code = BUSY.format(has_work=False, wait="time.sleep(60)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs)
    os.close(theirs)
    told = os.read(ours, 100)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)
    with contextlib.suppress(OSError):  # so a terminal ends
        while more := os.read(ours, 100):
            told += more
    os.close(ours)
    assert told.endswith(b"\x1b[?25h")


def test_a_second_signal_exits_at_once_though_the_main_thread_never_looks():
    process = busy(has_work=True, wait=WAIT_FOR_EVER)
    process.send_signal(signal.SIGTERM)
    process = _ended_by_second(process)
    assert process.returncode == 128 + signal.SIGINT


def _ended_by_second(process):
    assert "Again to exit at once" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    return process


def test_signals_count_though_nobody_reads_standard_error():
    process = busy(has_work=True)
    process.stderr.close()  # as of `2>&1 | tee log` after Ctrl-C
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # until it has failed to say something
    process.send_signal(signal.SIGINT)
    with process.stdout:
        assert process.wait(timeout=10) == 128 + signal.SIGINT


def test_a_signal_that_is_ignored_stays_so():
    """As SIGINT is of what a shell starts with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = StopRequest()
    request.has_work = True
    try:
        with stop_on_signals(request):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            wait_until(lambda: request.signal)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert request.signal == signal.SIGTERM


def test_several_processes_ask_each_other_only_where_all_are(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("nfx.train._signals.any_process", lambda asked: True)
    request = StopRequest()
    assert request.agreed(together=True)
    request.signal = signal.SIGTERM
    assert not request.agreed(together=False)


def python(code):
    return Command([sys.executable, "-c", code], dict(os.environ))


def test_the_supervisor_lets_the_others_stop_too(tmp_path):
    saved = tmp_path / "saved"
    slow = f"import time, pathlib; time.sleep(2); pathlib.Path({str(saved)!r}).touch()"
    assert run_together([python("raise SystemExit(143)"), python(slow)], grace=20) == 143
    assert saved.exists()


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("raise SystemExit(143)", 143),
        ("import os; os.kill(os.getpid(), 15)", 143),  # as while libraries are imported
        ("import os, signal; signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)", 130),
    ],
)
def test_a_stopped_run_is_not_restarted(tmp_path, ending, code):
    fake = (
        f"from nfx.cli import _launch, main; "
        f"_launch._NFX = ({sys.executable!r}, '-c', {ending!r}); "
        f"raise SystemExit(main(['launch', '--hosts', '2', '--', 'train', '--run-dir', "
        f"{str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", fake], capture_output=True, text=True)
    assert done.returncode == code
    assert "restart" not in done.stdout


def test_a_hang_is_told_once_with_the_stacks_of_all_threads(tmp_path, capfd):
    with HangWatch(tmp_path, timeout=0.2, poll=0.02) as watch:
        time.sleep(0.4)  # compiling
        assert not list(tmp_path.iterdir())
        watch.report()
        wait_until(lambda: any(tmp_path.iterdir()))
        time.sleep(0.4)
        with watch.paused():
            time.sleep(0.4)
        assert len(list(tmp_path.iterdir())) == 1
    (path,) = tmp_path.iterdir()
    text = path.read_text()
    assert re.fullmatch(r"hang-\d{8}-\d{6}\.txt", path.name)
    assert "no step has ended for 0 s" in text
    assert "test_a_hang_is_told_once_with_the_stacks_of_all_threads" in text
    assert len(re.findall("[Tt]hread 0x", text)) > 1
    assert "test_a_hang_is_told_once" in capfd.readouterr().err


def test_a_hang_after_a_pause_is_told_though_the_directory_hangs_too(tmp_path, capfd):
    told = lambda: "no step has ended for 0 s" in capfd.readouterr().err
    with HangWatch(tmp_path / "gone", timeout=0.2, poll=0.02) as watch:
        with watch.paused():
            time.sleep(0.4)
        assert not told()
        wait_until(told)


def test_a_hang_is_written_though_nobody_reads_standard_error(tmp_path, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(jax, "process_index", lambda: 3)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Broken())
        with HangWatch(tmp_path, timeout=0.2, poll=0.02) as watch:
            watch.report()
            wait_until(lambda: any(tmp_path.iterdir()))
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"hang-\d{8}-\d{6}-3\.txt", path.name)
    assert "nobody_reads_standard_error" in path.read_text()


def test_no_hang_is_told_while_steps_end_or_if_it_is_switched_off(tmp_path):
    with HangWatch(tmp_path, timeout=1.0, poll=0.02) as watch:
        for _ in range(30):
            watch.report()
            time.sleep(0.05)
    with HangWatch(tmp_path, timeout=0.0) as watch:
        watch.report()
        time.sleep(0.1)
    assert not list(tmp_path.iterdir())


HOLD = """
import sys, time, pathlib
from nfx.train import lock_directory
with lock_directory(pathlib.Path(sys.argv[1]), say=print):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_directory_in_use_is_refused_until_the_process_is_dead(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    said = []
    with (
        pytest.raises(RunDirectoryError, match=f"in use by another process .process {process.pid}"),
        lock_directory(tmp_path, say=said.append),
    ):
        raise AssertionError
    process.kill()
    process.communicate()
    with lock_directory(tmp_path, say=said.append):
        assert (tmp_path / "run.lock").read_text().startswith(f"{os.getpid()} on ")
    assert not said


def test_where_there_are_no_locks_that_is_said(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    said = []
    with lock_directory(tmp_path, say=said.append):
        pass
    assert len(said) == 1
    assert "cannot be locked (Operation not supported)" in said[0]


def test_a_full_disk_keeps_nobody_from_the_lock(tmp_path):
    """To make room by pruning takes it."""
    with (
        full_disk(0),
        lock_directory(tmp_path, say=print),
        pytest.raises(RunDirectoryError, match=r"in use by another process \(process unknown\)"),
        lock_directory(tmp_path, say=print),
    ):
        raise AssertionError


def test_errors_of_a_run_are_not_taken_for_those_of_its_lock(tmp_path):
    with pytest.raises(OSError, match="other"), lock_directory(tmp_path, say=print):
        raise OSError("other")
    with (
        pytest.raises(RunDirectoryError, match=r"run\.lock' cannot be written"),
        lock_directory(tmp_path / "missing", say=print),
    ):
        raise AssertionError
