"""JAX's persistent compilation cache: what one process compiled, the next one loads."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


def enable_compilation_cache(path: str | Path | None = None) -> Path | None:
    """Keeps compiled programs on disk, for this process and those after it.

    Nothing in nfx calls this but the `nfx` command. Everything that is compiled from now on is
    kept, small programs too. What is in the directory is executed: let nobody else write into it.
    It is never emptied; to bound it, set `jax_compilation_cache_max_size`.

    Args:
        path: The directory. By default `$NFX_CACHE_DIR/compilation`; without that variable the
            directory that JAX is configured to use (`$JAX_COMPILATION_CACHE_DIR`), with all
            settings as they are; and without one `~/.cache/nfx/compilation`, or where
            `$XDG_CACHE_HOME` says.

    Returns:
        The directory; None, after a warning, if it cannot be written into.
    """
    root = os.environ.get("NFX_CACHE_DIR")
    configured = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if path is None and not root and configured:
        return Path(configured)
    path = Path(path or _default_directory(root))
    try:
        path = path.expanduser().absolute()
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs in it are executed
        tempfile.TemporaryFile(dir=path).close()
    except (OSError, RuntimeError) as error:  # without a home directory "~" is nowhere
        warnings.warn(
            f"Cannot keep compiled programs in {str(path)!r} ({error}), so every run compiles "
            "again. Set NFX_CACHE_DIR to a directory that can be written into.",
            stacklevel=2,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX decides at its first compilation whether to use one
    return path


@contextlib.contextmanager
def without_compilation_cache() -> Iterator[None]:
    """Compiles afresh what is compiled inside, and does not keep it."""
    enabled = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", enabled)
        compilation_cache.reset_cache()


def _default_directory(root: str | None) -> Path:
    if root:
        return Path(root) / "compilation"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "nfx" / "compilation"
