"""What importing costs, each in an interpreter of its own."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from nfx import cli


COMMAND = [sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main())"]


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_initializes_no_backend_and_loads_no_extra():
    run("""
import sys
import nfx
from nfx import analysis, aot, augment, data, models, nn, optim, serving, sharding, weights
from nfx import create_model, list_models, unit_axes
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized()
extras = {"grain", "orbax", "PIL", "tyro", "rich", "matplotlib", "hypothesis", "tensorboardX"}
assert not extras & set(sys.modules), extras & set(sys.modules)
""")


def test_import_takes_less_than_two_seconds():
    seconds = run("""
import time
began = time.process_time()
import nfx
from nfx import models, nn, optim
print(time.process_time() - began)
""")
    assert float(seconds) < 2


def test_help_does_not_import_jax():
    out = run("""
import sys
from nfx.cli import main
assert main(["--help"]) == 0
assert main(["--version"]) == 0
assert "jax" not in sys.modules
assert main(["trian"]) == 2
""")
    assert "train a network" in out


def test_names_that_do_not_exist_are_errors():
    run("""
import nfx
assert "create_model" in dir(nfx)
try:
    nfx.nothing
except AttributeError as error:
    assert "'nothing'" in str(error)
else:
    raise AssertionError
""")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_who_reads_no_further_gets_no_traceback(unbuffered):
    """As `nfx --help | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open(writing, "wb") as output:
        done = subprocess.run(
            [*COMMAND, "--help"], stdout=output, stderr=subprocess.PIPE, env=environment
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["compile", "--help"], ["models", "--json"]])
def test_commands_do_without_an_output(arguments):
    """As under `>&-`."""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *arguments], stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_output_that_is_full_is_said():
    with open("/dev/full", "wb") as output:
        done = subprocess.run([*COMMAND, "--help"], stdout=output, stderr=subprocess.PIPE)
    message = b"nfx: error: what is printed cannot be written (No space left on device)\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize("printing", ["print('a loss')", "rich.print('a loss')"])
@pytest.mark.parametrize(("command", "trains"), [("train", True), ("models", False)])
def test_a_training_that_nobody_reads_says_that_it_was_stopped(command, trains, printing):
    """rich ends the process itself when a pipe breaks."""
    code = f"""
import rich
from nfx import cli
cli._run = lambda name, arguments: {printing}
raise SystemExit(cli.main())
"""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", code, command], stdout=output, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert ("nobody reads" in done.stderr) == trains
    assert done.stderr.count("\n") == trains, "and nothing else"


def test_another_pipe_that_breaks_is_an_error(monkeypatch):
    def broken(*arguments):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "_run", broken)
    with open(os.devnull, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError, match="of a worker"):
            cli.main(["models"])


@pytest.mark.parametrize(
    ("words", "code"), [((), 130), (("by a library",), 130), ((signal.SIGTERM,), 143)]
)
def test_an_interruption_ends_with_its_signal(monkeypatch, words, code):
    def interrupted(arguments):
        raise KeyboardInterrupt(*words)

    monkeypatch.setattr(cli, "_load", lambda module: SimpleNamespace(main=interrupted))
    assert cli.main(["launch"]) == code


def test_an_interrupt_that_is_ignored_stays_so_during_imports(monkeypatch):
    """As of a command that a shell's script starts with `&`."""
    found = []
    monkeypatch.setattr(
        cli.importlib, "import_module", lambda name: found.append(signal.getsignal(signal.SIGINT))
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        cli._load("nfx.cli._models")
    finally:
        signal.signal(signal.SIGINT, before)
    assert found == [signal.SIG_IGN]
