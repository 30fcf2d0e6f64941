"""Tests against real processes, files and models."""
