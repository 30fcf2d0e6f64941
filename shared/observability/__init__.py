"""Logs, metrics, traces, and the HTTP endpoint that shows metrics and health."""
