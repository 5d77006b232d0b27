"""Runs killed at random end with the bits of one that was not."""

from collections import Counter

import pytest

from benchmarks.faults import drill
from tests.flags import QUICK_COMPILES


@pytest.mark.slow
@pytest.mark.xdist_group("faulty runs")
def test_six_random_kills_lose_and_corrupt_nothing(tmp_path, monkeypatch):
    """`python -m benchmarks.faults` does it fifty times."""
    monkeypatch.setenv("NFX_DRILL_XLA_FLAGS", QUICK_COMPILES)
    total = sum(drill(6, tmp_path).values(), Counter())
    assert sum(total[name] for name in ("SIGKILL", "SIGTERM", "SIGINT")) == 6
    assert total["lost"] == total["corrupt"] == total["unclean"] == 0
