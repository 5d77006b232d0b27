"""The `nfx` command: a table of subcommands, each loaded only when it is called."""

import contextlib
import importlib
import importlib.metadata
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from nfx._names import did_you_mean
from nfx.cli._quiet import quiet_libraries


class _Command(NamedTuple):
    module: str
    summary: str
    uses_cache: bool = False  # of compiled programs


_COMMANDS = {
    "train": _Command(
        "nfx.cli._train", "train a network, on the images nfx carries or your own", True
    ),
    "launch": _Command(
        "nfx.cli._launch", "train by several processes on this machine, and restart them"
    ),
    "evaluate": _Command(
        "nfx.cli._evaluate", "evaluate a run on its test images, or on others", True
    ),
    "report": _Command(
        "nfx.cli._report", "write a page about a run: curves, confusions, its worst mistakes", True
    ),
    "checkpoints": _Command(
        "nfx.cli._checkpoints", "list, verify, average or remove the checkpoints of a run", True
    ),
    "predict": _Command(
        "nfx.cli._predict", "name what is in images, by a run, weights, an artifact", True
    ),
    "convert": _Command(
        "nfx.cli._convert", "write images as a data set that is read fast and can be verified"
    ),
    "inspect": _Command(
        "nfx.cli._inspect", "look at images before training, or into a network's signal"
    ),
    "compile": _Command("nfx.cli._compile", "report what a program costs, before it runs"),
    "export": _Command(
        "nfx.cli._export", "write a run or weights as a program that runs without nfx"
    ),
    "recipes": _Command("nfx.cli._recipes", "list the recipes of training, or print one"),
    "models": _Command("nfx.cli._models", "list the models, their sizes and published accuracies"),
}

# What to install when a subcommand's imports fail.
_EXTRA = "pip install 'nfx[all]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand and returns the exit code.

    Errors that are the user's to mend are printed as a paragraph, without a traceback, unless
    the environment variable `NFX_TRACEBACK` is set. If nobody reads any more what is printed, only
    a training says so.
    """
    _replace_closed_outputs()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except OSError as error:
        if _can_print():
            raise
        return _end_unheard(arguments, error)
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # so rich ends a process
            raise
        return _end_unheard(arguments, end.__context__)
    return code


def _replace_closed_outputs() -> None:
    """Without an output, as `>&-` starts a process, libraries fail that ask what it is."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - as long as the process


def _can_print() -> bool:
    """Whether standard output takes what is written: otherwise an error is of something else."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _end_unheard(arguments: list[str], error: OSError) -> int:
    """Says that nothing can be printed, if that matters, and returns the exit code."""
    # Python flushes once more on exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    trains = arguments[:1] in (["train"], ["launch"]) and not {"-h", "--help"} & {*arguments}
    if not isinstance(error, BrokenPipeError):
        reason = error.strerror or error
        message = f"nfx: error: what is printed cannot be written ({reason})"
    elif trains:
        message = (
            "nfx: nobody reads what is printed any more, so it was stopped; "
            "a run goes on with --resume"
        )
    else:
        return 1
    with contextlib.suppress(OSError):  # this may have broken too
        print(message, file=sys.stderr)
    return 1


def _dispatch(arguments: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may be in no encoding at all
        sys.stdout.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    if arguments[0] == "--version":
        print(importlib.metadata.version("nfx"))
        return 0
    name, *rest = arguments
    if name not in _COMMANDS:
        said = f"nfx: there is no command {name!r}. {did_you_mean(name, _COMMANDS)}"
        print(f"{said}\n`nfx --help` says what each does.", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, arguments: list[str]) -> int:
    try:
        command = _load(_COMMANDS[name].module)
        quiet_libraries()
        if _COMMANDS[name].uses_cache:
            _enable_cache()
        return command.main(arguments)
    except KeyboardInterrupt as interruption:
        print("\nnfx: interrupted; what was written is kept.", file=sys.stderr)
        told = [word for word in interruption.args if isinstance(word, signal.Signals)]
        return 128 + (told or [signal.SIGINT])[0]  # a library may have words of its own
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "nfx" or "NFX_TRACEBACK" in os.environ:
            raise
        print(f"nfx: `nfx {name}` needs {error.name}: {_EXTRA}", file=sys.stderr)
    except Exception as error:
        if not _is_expected(error) or "NFX_TRACEBACK" in os.environ:
            raise
        print(f"nfx: error: {error}\n(NFX_TRACEBACK=1 shows where.)", file=sys.stderr)
    return 1


def _load(module: str) -> ModuleType:
    """Imports a command. Ctrl-C ends the process meanwhile: an exception could crash a library."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # as a shell's `&` has it
    if ignored or threading.current_thread() is not threading.main_thread():
        return importlib.import_module(module)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return importlib.import_module(module)
    finally:
        signal.signal(signal.SIGINT, before)


def _enable_cache() -> None:
    """Lets the next run load what this one compiles, unless it is switched off."""
    switch = os.environ.get("NFX_COMPILATION_CACHE", "on")
    if switch not in ("on", "off"):
        raise ValueError(f"NFX_COMPILATION_CACHE={switch!r} must be 'on' or 'off'.")
    if switch == "on":
        from nfx._cache import enable_compilation_cache

        enable_compilation_cache()


def _is_expected(error: Exception) -> bool:
    """Whether an error says what the user can do, so that a traceback would only hide it."""
    if isinstance(error, ValueError):
        return True
    from nfx.aot import DeviceMemoryError
    from nfx.checkpoint import CheckpointError
    from nfx.train import RunDirectoryError, TrainingError

    expected = (CheckpointError, DeviceMemoryError, RunDirectoryError, TrainingError)
    return isinstance(error, expected)


def _help() -> str:
    commands = "\n".join(f"  {name:<11} {entry.summary}" for name, entry in _COMMANDS.items())
    return f"""usage: nfx COMMAND [OPTIONS]

Normalizer-free convolutional networks in JAX.

commands:
{commands}

Start with:  nfx train                  (about two minutes on two cores, nothing to download)
Then:        nfx train --data DIR       (DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg)
Learn more:  nfx COMMAND --help

environment variables:
  NFX_COMPILATION_CACHE=off  compile everything again, and keep nothing
  NFX_CACHE_DIR=DIR          keep compiled programs in DIR/compilation, not in ~/.cache/nfx
  NFX_TRACEBACK=1            show where an error came from"""
