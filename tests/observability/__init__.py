"""What the services tell of themselves: logs, metrics, traces, and how good their answers are."""
