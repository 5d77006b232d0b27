"""Developer tasks. `nox` runs what CI runs; `nox -l` lists everything."""

import pathlib
import shutil
import subprocess
import sys

import nox


nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"


def runs(python: str) -> bool:
    """Whether an interpreter is there and starts: a version manager's stub may do neither."""
    command = shutil.which(f"python{python}")
    return (
        command is not None and subprocess.run([command, "-V"], capture_output=True).returncode == 0
    )


# The oldest Python, whose newest JAX is 0.10, and the newest, with the newest JAX.
_THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = [python for python in ("3.11", "3.13") if runs(python)] or [_THIS]


def install(session: nox.Session, *groups: str) -> None:
    """Installs nfx as it stands here, with groups of what developers need."""
    session.install("-e", ".[all]", *(word for group in groups for word in ("--group", group)))


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint, without changing files."""
    session.install("--group", "lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session(python=PYTHONS[:1])
def static(session: nox.Session) -> None:
    """Imports point downwards only, and types."""
    install(session, "lint", "types", "tests", "paper")
    session.run("lint-imports")
    session.run("basedpyright", "--pythonpath", f"{session.virtualenv.location}/bin/python")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The suite on eight virtual devices, with shapes checked at run time.

    What is marked slow runs on one Python, and what is marked long not here.
    """
    install(session, "tests", "paper", "compilers")
    chosen = ("-m", "not long") if session.python == PYTHONS[0] else ()
    session.run("pytest", "--numprocesses", "2", "--dist", "loadgroup", *chosen, *session.posargs)


@nox.session(default=False, python=PYTHONS[:1])
def long(session: nox.Session) -> None:
    """More cases of what the suite has some of."""
    install(session, "tests", "compilers")
    session.run("pytest", "-m", "long", *session.posargs)


@nox.session(default=False, python=PYTHONS[-1:])
def coverage(session: nox.Session) -> None:
    """Lines of nfx that no test reaches, in the processes that tests start too. Half an hour.

    One file of tests at a time: in workers that run them all, what was seen is lost half-way.
    """
    install(session, "tests", "paper", "compilers")
    session.install("coverage>=7.10")
    session.run("coverage", "erase")
    for path in sorted(pathlib.Path("tests").rglob("test_*.py")):
        command = ("coverage", "run", "-m", "pytest", "-q", "-m", "not long", str(path))
        session.run(*command, *session.posargs, success_codes=[0, 5])  # 5: it has none of these
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", "--show-missing", "--skip-covered")


@nox.session(default=False, python=PYTHONS[:1])
def properties(session: nox.Session) -> None:
    """The laws at length: 5,000 examples each, but for those that compile at every one."""
    install(session, "tests")
    session.run("pytest", "tests/test_laws.py", "-k", "lawful", "--law-examples", "5000")


@nox.session(default=False, python=PYTHONS[:1])
def docs(session: nox.Session) -> None:
    """The documentation as a site, in `site`; whatever is wrong with it is an error."""
    session.install("--group", "docs")
    session.run("mkdocs", "build", "--strict", *session.posargs)


@nox.session(default=False, python=PYTHONS[:1])
def release(session: nox.Session) -> None:
    """The sdist and the wheel, in `dist`; and that what is in the wheel trains elsewhere."""
    session.install("build", "twine")
    dist = pathlib.Path("dist").absolute()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    (wheel,) = dist.glob("*.whl")
    session.install("--force-reinstall", f"{wheel}[train]")
    with session.chdir(session.create_tmp()):
        session.run("nfx", "train", "--steps", "200", "--run-dir", "run", *session.posargs)
        shutil.rmtree("run")


# The paper's claims; `python -m benchmarks.paper.NAME --help` says what each is.
_CLAIMS = (
    "sizes", "signal_propagation", "batch_size", "small_batches", "threshold", "ablations",
    "batch_norm", "private", "transfer",
)  # fmt: skip


@nox.session(default=False, python=PYTHONS[:1])
def paper(session: nox.Session) -> None:
    """The paper's claims at small scale, into docs/paper; hours. `-- --quick`: that they run."""
    install(session, "paper")
    for name in _CLAIMS:
        session.run("python", "-m", f"benchmarks.paper.{name}", *session.posargs)


@nox.session(default=False, python=PYTHONS[:1])
def bench(session: nox.Session) -> None:
    """Speed, side by side with the alternatives; ratios are printed. About an hour."""
    install(session, "bench")
    for model, size in (("nfnet_f0", "192"), ("nf_resnet50", "224"), ("nf_regnet_b0", "192")):
        session.run("python", "benchmarks/step.py", "--model", model, "--size", size)
    for name in ("convolution", "agc", "compile", "memory", "export", "augment", "input"):
        session.run("python", f"benchmarks/{name}.py")
