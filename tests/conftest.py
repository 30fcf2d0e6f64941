"""Fixtures that more than one folder of tests uses stand in `tests/fixtures`, one file a subject."""

pytest_plugins = ["tests.fixtures.chroma", "tests.fixtures.model", "tests.fixtures.stack"]
