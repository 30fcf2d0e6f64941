"""Stubs generated from `protos/` by `make gen`. Committed, never edited by hand; `make check` fails when they are out of date."""
