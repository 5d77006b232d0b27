"""The page about a run: what it found out, as sections of tables and figures."""

from nfx.recipes._report._report import report as report
