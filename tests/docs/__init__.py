"""Tests of what stands in files that are not code: documents, decisions, locks, the Makefile."""
