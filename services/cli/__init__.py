"""The `kb` command line: runs a stack on one machine and talks to its services."""
