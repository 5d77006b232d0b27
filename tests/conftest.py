import os


# Before JAX starts: eight virtual devices, for meshes without accelerators; and no time spent on
# optimising programs that are compiled to run once (convolutions are library calls either way).
_FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402


jax.config.update("jax_numpy_dtype_promotion", "strict")  # mixed precision on purpose only

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=5_000)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def key():
    return jax.random.key(0)
