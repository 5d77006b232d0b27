import gc
import os
import shutil
import tempfile

from tests.flags import QUICK_COMPILES


# Before JAX starts: eight virtual devices, for meshes without accelerators; and no time spent on
# optimizing programs (convolutions are library calls either way).
_FLAGS = f"--xla_force_host_platform_device_count=8 {QUICK_COMPILES}"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
os.environ["JAX_PLATFORMS"] = "cpu"  # libtpu is there to compile with, and knows other flags
# Workers, and what tests start, load what one of them has compiled; and nothing is written into
# the cache of whoever tests.
os.environ["NFX_COMPILATION_CACHE"] = "off"
_SHARED = tempfile.mkdtemp(prefix="nfx-tests-") if "PYTEST_XDIST_WORKER" not in os.environ else ""
if _SHARED:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _SHARED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Traces and programs are millions of objects that live as long as the tests: to look through them
# at the usual pace takes a fifth of the time.
gc.set_threshold(100_000, 50, 1000)

import jax  # noqa: E402
import pytest  # noqa: E402


jax.config.update("jax_numpy_dtype_promotion", "strict")  # mixed precision on purpose only


def pytest_unconfigure():
    if _SHARED:
        shutil.rmtree(_SHARED, ignore_errors=True)


def pytest_addoption(parser):
    parser.addoption("--law-examples", type=int, default=200, help="cases to try for each law")


@pytest.fixture
def law_examples(request):
    return request.config.getoption("--law-examples")


@pytest.fixture
def key():
    return jax.random.key(0)
