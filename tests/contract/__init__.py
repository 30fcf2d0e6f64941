"""Suites that run on the fake and on every real adapter of a port."""
