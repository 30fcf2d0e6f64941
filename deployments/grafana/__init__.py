"""What Grafana is provisioned with."""
