"""Watching a stack with a real Prometheus and Alertmanager, which run as children beside it."""
