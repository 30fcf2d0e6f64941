"""Tests of what a user runs: `kb` and the whole stack."""
