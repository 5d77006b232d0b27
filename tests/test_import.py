"""What importing costs, each in an interpreter of its own."""

import os
import subprocess
import sys

import pytest

from nfx import cli


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_initialises_no_backend_and_loads_no_extra():
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
    command = [sys.executable, "-c", "from nfx.cli import main; raise SystemExit(main(['--help']))"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open(writing, "wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (1, b"")


def test_another_pipe_that_breaks_is_an_error(monkeypatch):
    def broken(*arguments):
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr(cli, "_run", broken)
    with open(os.devnull, "w") as output, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError, match="of a worker"):
            cli.main(["models"])
