"""Faults, put on purpose into a stack of its own while it is in use, and what came of each: `kb chaos` and the tests of the fault matrix."""
