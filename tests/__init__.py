"""Tests, a folder a kind; see CONTRIBUTING.md."""
