"""What Prometheus' operator is told agrees with what Prometheus is told elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from deployments.kubernetes import rules
from tests.deployment.cluster import named, pods, selects

DEPLOYMENTS = Path(rules.__file__).resolve().parents[1]


def test_the_rules_are_those_of_prometheus() -> None:
    """The manifests are made from the files that Prometheus reads itself; `make gen` writes them."""
    written = (DEPLOYMENTS / "kubernetes" / "components" / "monitoring" / "prometheus-rules.yaml").read_text(encoding="utf-8")
    read = [yaml.safe_load((DEPLOYMENTS / "prometheus" / file).read_text(encoding="utf-8")) for file in ("recording_rules.yml", "alerts.yml")]

    assert written == rules.render()
    assert [item["spec"] for item in yaml.safe_load_all(written)] == read


def test_group_names_differ_within_an_object() -> None:
    """The operator's schema makes them keys."""
    for item in named("production", "PrometheusRule").values():
        names = [group["name"] for group in item["spec"]["groups"]]
        assert len(names) == len(set(names)) > 0


def test_both_services_are_scraped_under_the_jobs_that_the_rules_name() -> None:
    """The monitor finds both Services, asks a port that they have, and calls the jobs as prometheus.yml does."""
    (monitor,) = named("production", "ServiceMonitor").values()
    (endpoint,) = monitor["spec"]["endpoints"]
    (renaming,) = (rule for rule in endpoint["relabelings"] if rule["targetLabel"] == "job")
    services = {
        name: item for name, item in named("production", "Service").items() if selects(monitor["spec"]["selector"], item["metadata"]["labels"])
    }
    jobs = {re.sub(r"(.*)", renaming["replacement"].replace("$1", r"\1"), name, count=1) for name in services}
    scraped = yaml.safe_load((DEPLOYMENTS / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))

    assert services.keys() == {"indexer", "query"}
    assert renaming["sourceLabels"] == ["__meta_kubernetes_service_name"]
    assert jobs == {config["job_name"] for config in scraped["scrape_configs"] if config["job_name"].startswith("kb-")}
    assert all(endpoint["port"] in {port["name"] for port in item["spec"]["ports"]} for item in services.values())
    assert (endpoint["path"], endpoint["interval"]) == ("/metrics", scraped["global"]["scrape_interval"])


def test_prometheus_reaches_the_metrics_and_nothing_else() -> None:
    """One policy lets it in, to the HTTP port of both services."""
    policy = named("production", "NetworkPolicy")["prometheus"]["spec"]
    (rule,) = policy["ingress"]

    assert {name for name, found in pods("production").items() if selects(policy["podSelector"], found.labels)} == {"indexer", "query"}
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert all("namespaceSelector" in peer and "podSelector" in peer for peer in rule["from"])
