"""Prometheus' configuration, recording rules and alerts: what the files say, and what they do by promtool."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import promql_parser as promql
import pytest
import yaml
from typer.testing import CliRunner

from services.cli.main import app
from services.cli.observe.configuration import DEPLOYMENTS, read, seconds
from services.cli.observe.expressions import selectors
from services.indexer.config import IndexerSettings
from services.query.config import QuerySettings
from shared.observability.metrics import DEFINITIONS, Definition
from shared.rpc.metrics import code_label
from shared.rpc.status import SERVER_FAULTS
from tests.dashboards.tools import RULES, alerts, recordings, run

_TARGET_LABELS = {"job", "instance"}
# Prometheus' own, and those of prometheus-client for every process.
_FOREIGN = {"up", "process_start_time_seconds", "process_resident_memory_bytes"}
_JOBS = {"kb-query", "kb-indexer", "prometheus", "alertmanager"}
_SEVERITIES = {"critical", "warning", "info"}
_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")
_OVER_TRAFFIC = re.compile(r"\b(rate|increase)\(|kb:")

# Alert, what it compares with what, how long it waits: as they were asked for.
ASKED_FOR = [
    ("KnowledgeBeastSearchSlow", "kb:search_latency_seconds:p99_5m > 0.15", 300, "warning"),
    ("KnowledgeBeastSearchVerySlow", "kb:search_latency_seconds:p99_5m > 0.5", 120, "critical"),
    ("KnowledgeBeastSearchErrors", "kb:search_errors:ratio_rate5m > 0.01", 300, "warning"),
    ("KnowledgeBeastChromaDBDown", "kb_chromadb_up == 0", 0, "critical"),
    ("KnowledgeBeastCacheHitRatioLow", "kb:cache_hit:ratio_rate10m < 0.5", 600, "warning"),
    ("KnowledgeBeastDiskLow", "kb_disk_free_bytes < 10e9", 0, "warning"),
    ("KnowledgeBeastDiskVeryLow", "kb_disk_free_bytes < 5e9", 0, "critical"),
    ("KnowledgeBeastErrorBudgetGoneIn2Days", "kb:error_budget:burn_rate1h > 14.4 and kb:search_errors:ratio_rate5m > 14.4 * 0.001", 0, "critical"),
    ("KnowledgeBeastErrorBudgetGoneIn5Days", "kb:error_budget:burn_rate6h > 6 and kb:search_errors:ratio_rate30m > 6 * 0.001", 0, "critical"),
    (
        "KnowledgeBeastErrorBudgetGoneIn10Days",
        "kb:search_errors:ratio_rate1d / 0.001 > 3 and kb:search_errors:ratio_rate2h > 3 * 0.001",
        0,
        "warning",
    ),
    (
        "KnowledgeBeastErrorBudgetGoneIn30Days",
        "kb:search_errors:ratio_rate3d / 0.001 > 1 and kb:search_errors:ratio_rate6h > 1 * 0.001",
        0,
        "warning",
    ),
]
SUBJECTS = (
    "Degraded",
    "BreakerOpen",
    "FeedLagging",
    "FeedDisconnected",
    "ProjectorLagging",
    "Quarantine",
    "QualityDropped",
    "CanaryStale",
    "QueryServiceAbsent",
    "IndexerAbsent",
    "RequestsShed",
    "Memory",
    "WritesFailing",
    "Wal",
    "SpansDropped",
    "EventLoop",
    "ReplicaNotVerified",
    "ReconcileStale",
    "DocumentsDamaged",
    "ModelNotLoaded",
    "Restarting",
)


def test_prometheus_takes_the_files() -> None:
    """`promtool check config` accepts the configuration and the rules that it names."""
    ended = run("promtool", "check", "config", DEPLOYMENTS / "prometheus" / "prometheus.yml")

    assert ended.status == 0, ended.output
    assert ended.output.count("rules found") == 2


def test_it_scrapes_both_services_and_itself_every_15_seconds() -> None:
    """The jobs, the interval, and the ports that the services have by default, under the services' names."""
    file = read("prometheus/prometheus.yml")
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in file["scrape_configs"]}

    assert file["global"]["scrape_interval"] == file["global"]["evaluation_interval"] == "15s"
    assert set(targets) == _JOBS
    assert targets["kb-query"] == [f"query:{QuerySettings.model_fields['query_http_port'].default}"]
    assert targets["kb-indexer"] == [f"indexer:{IndexerSettings.model_fields['indexer_http_port'].default}"]


@pytest.mark.parametrize("file", sorted(RULES.glob("*.yml")), ids=lambda file: file.stem)
def test_rules_do_what_their_cases_say(file: Path) -> None:
    """`promtool test rules`: series over time, and which alerts fire with which texts, or what is recorded."""
    ended = run("promtool", "test", "rules", file)

    assert ended.status == 0, ended.output


def test_every_alert_has_a_case_of_each_kind() -> None:
    """Each fires in one case and does not in another; one that goes by rates also does not where nothing happens."""
    cases = {
        test["name"]: test["alert_rule_test"]
        for file in RULES.glob("*.yml")
        for test in yaml.safe_load(file.read_text())["tests"]
        if "alert_rule_test" in test
    }
    for alert in alerts():
        name = alert["alert"]
        kinds = ["does not fire", *(["does not fire without traffic"] if _OVER_TRAFFIC.search(alert["expr"]) else [])]
        assert [case["alertname"] for case in cases[f"{name}: fires"] if case["exp_alerts"]] == [name]
        for kind in kinds:
            assert [(case["alertname"], case["exp_alerts"]) for case in cases[f"{name}: {kind}"]] == [(name, [])]


def test_a_case_of_an_alert_with_a_wait_also_looks_before_it_is_over() -> None:
    """Where an alert waits, its firing case has an earlier moment at which it does not fire."""
    waiting = {alert["alert"] for alert in alerts() if "for" in alert}
    looked = {
        test["name"].partition(":")[0]
        for file in RULES.glob("*.yml")
        for test in yaml.safe_load(file.read_text())["tests"]
        if test["name"].endswith(": fires") and not test["alert_rule_test"][0]["exp_alerts"]
    }

    assert waiting <= looked


@pytest.mark.parametrize(("name", "comparison", "wait", "severity"), ASKED_FOR, ids=lambda value: value if str(value).startswith("Know") else "")
def test_alerts_that_were_asked_for_have_their_limits(name: str, comparison: str, wait: float, severity: str) -> None:
    """Limit, wait and severity are those of the specification."""
    alert = next(alert for alert in alerts() if alert["alert"] == name)

    assert " ".join(alert["expr"].split()).startswith(comparison)
    assert seconds(alert.get("for", "0s")) == wait
    assert alert["labels"]["severity"] == severity


def test_there_is_an_alert_on_every_subject() -> None:
    """What can go wrong has an alert."""
    names = " ".join(alert["alert"] for alert in alerts())

    assert [subject for subject in SUBJECTS if subject not in names] == []


def test_every_alert_tells_what_whom_and_what_to_do() -> None:
    """Name, severity, subject, summary, a description with the value, and a runbook page of its own."""
    pages = [alert["annotations"]["runbook_url"] for alert in alerts()]
    for alert in alerts():
        assert re.fullmatch(r"KnowledgeBeast([A-Z][A-Za-z0-9]*)+", alert["alert"])
        assert alert["labels"]["severity"] in _SEVERITIES
        assert alert["labels"]["subject"]
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["summary"]
        assert "$value" in alert["annotations"]["description"], alert["alert"]

    assert len(set(pages)) == len(pages)
    assert [page for page in pages if not re.fullmatch(r"docs/operations/runbooks/[a-z0-9-]+\.md", page)] == []


def test_prometheus_own_start_is_no_absence() -> None:
    """An alert on absence waits for longer than the first scrape and the evaluation after it take, also at the longest interval of `kb observe`."""
    shortest = min(seconds(alert["for"]) for alert in alerts() if "absent(" in alert["expr"])
    # The port is none, so that nothing is started if the interval is taken.
    refused = CliRunner().invoke(app, ["observe", "--scrape-interval", f"{shortest / 2 + 1:g}", "--prometheus-port", "70000"])

    assert seconds(read("prometheus/prometheus.yml")["global"]["scrape_interval"]) <= shortest / 2
    assert "--scrape-interval" in refused.output


def test_ratios_and_quantiles_are_guarded_by_a_number() -> None:
    """An alert on a share or a quantile of requests also asks how many there were."""
    for alert in alerts():
        expression = " ".join(alert["expr"].split())
        if re.match(r"kb:|sum by \(job(, instance)?\) \(rate|histogram_quantile\(0.99, sum by \(job, instance, le\) \(rate\(kb_catalog", expression):
            assert re.search(r"and on ?\([^)]*\) .*increase\(.*\) > \d", expression), alert["alert"]


def test_rules_read_series_that_the_services_show() -> None:
    """Every name is a metric of the project, a recording rule, or one that every process has; its labels and their values exist."""
    metrics = {_base(definition): definition for definition in DEFINITIONS}
    recorded = {rule["record"] for rule in recordings()}
    for rule in (*recordings(), *alerts()):
        for name, matchers in _selected(rule["expr"]):
            definition = metrics.get(_HISTOGRAM.sub("", name).removesuffix("_total")) or metrics.get(name)
            assert definition is not None or name in recorded | _FOREIGN, f"{name} in {rule['expr']}"
            for matcher in matchers:
                _check_matcher(matcher, name, definition, recordings())


def test_bucket_limits_that_rules_ask_for_exist() -> None:
    """Each `le` of a rule, and each limit on a latency, is a bucket's bound: else the share is absent, and the quantile a guess."""
    durations = next(definition for definition in DEFINITIONS if definition.name == "kb_query_duration_seconds").metric
    bounds = {sample.labels["le"] for sample in next(iter(durations.collect())).samples if sample.name.endswith("_bucket")}
    asked = {le for rule in (*recordings(), *alerts()) for le in re.findall(r'le="([^"]+)"', rule["expr"])}

    assert asked
    assert asked | {"0.02", "0.15", "0.5"} <= bounds


def test_the_servers_faults_are_those_of_the_status_table() -> None:
    """The codes that count as errors are those of `shared/rpc/status.py` in every rule; a page may leave out the deadline that a client chose."""
    faults = {code_label(code) for code in SERVER_FAULTS}
    of_its_own = faults - {code_label(grpc.StatusCode.DEADLINE_EXCEEDED)}
    asked = [codes.split("|") for rule in (*recordings(), *alerts()) for codes in re.findall(r'grpc_code=~"([^"]+)"', rule["expr"])]

    assert asked
    assert [codes for codes in asked if sorted(codes) not in (sorted(faults), sorted(of_its_own))] == []


def _base(definition: Definition) -> str:
    return definition.name if definition.kind == "gauge" else definition.name.removesuffix("_total")


def _selected(expression: str) -> Iterator[tuple[str, list[promql.Matcher]]]:
    """Every selector of an expression, those whose absence is asked for included: its name and matchers."""
    for selector in (*selectors(expression), *re.findall(r"absent\((\w+\{[^}]*\})", expression)):
        parsed = promql.parse(selector)
        assert isinstance(parsed, promql.VectorSelector)
        yield parsed.name or "", list(parsed.matchers.matchers)


def _check_matcher(matcher: promql.Matcher, name: str, definition: Definition | None, rules: list[dict[str, Any]]) -> None:
    if matcher.name == "job":
        assert any(re.fullmatch(matcher.value, job) for job in _JOBS), f"{name}: {matcher}"
        return
    if matcher.name in _TARGET_LABELS or (matcher.name == "le" and name.endswith("_bucket")):
        return
    if definition is None:
        grouped = next(rule["expr"] for rule in rules if rule["record"] == name)
        assert matcher.name in grouped, f"{name}: {matcher}"
        return
    label = next((label for label in definition.labels if label.name == matcher.name), None)
    assert label is not None, f"{name} has no label {matcher.name}"
    assert not label.values or any(re.fullmatch(matcher.value, value) for value in label.values), f"{name}: {matcher}"
