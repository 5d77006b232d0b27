"""A disk without room."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(bytes_per_file=20_000):
    """No file can grow: what writing more meets is an error of the system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
