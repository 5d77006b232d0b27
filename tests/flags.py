"""XLA's flags for programs that are compiled to run once; nothing here imports JAX."""

from importlib.metadata import version


# No time for optimizing, and one thread a program. What used to emit loops before JAX 0.11 compiles
# twice as fast.
_FLAGS = {"--xla_backend_optimization_level=0": True,
          "--xla_cpu_parallel_codegen_split_count=1": True,
          "--xla_cpu_use_fusion_emitters=false": version("jax").startswith("0.10.")}  # fmt: skip
QUICK_COMPILES = " ".join(flag for flag, holds in _FLAGS.items() if holds)
