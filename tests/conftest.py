import os


# Before JAX starts: meshes without accelerators.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
)

import hypothesis
import jax
import pytest


jax.config.update("jax_numpy_dtype_promotion", "strict")  # mixed precision on purpose only

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=100)
hypothesis.settings.register_profile("deep", deadline=None, max_examples=5_000)
hypothesis.settings.load_profile("ci")


@pytest.fixture
def key():
    return jax.random.key(0)
