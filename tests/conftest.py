"""Fixtures that more than one folder of tests uses stand in `tests/fixtures`, one file a subject."""

from hypothesis import HealthCheck, settings

# Examples take as long as the machine is busy: slowness is not what property tests are to find. Loaded here, before any test has started
# threads: importing Hypothesis late, beside running threads, can crash Python 3.11's parser (python/cpython#106905).
settings.register_profile("knowledgebeast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("knowledgebeast")

# Those that others import come first: a module that is imported before it is registered keeps plain asserts, and pytest warns of it.
pytest_plugins = ["tests.fixtures.chroma", "tests.fixtures.model", "tests.fixtures.stack", "tests.fixtures.collector", "tests.fixtures.spans"]
