"""Tests of what watches an installation: dashboard, rules, and the files that run them."""
