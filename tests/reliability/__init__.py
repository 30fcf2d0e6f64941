"""Behaviour under faults."""
