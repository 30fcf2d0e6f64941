"""Alertmanager's configuration: who hears of what, and what is silenced by what."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from services.cli.observe.alertmanager_api import AlertmanagerApi
from services.cli.observe.configuration import read
from services.cli.observe.http_json import is_ready
from services.cli.observe.programs import find_programs
from services.cli.stack.process import ManagedProcess, free_port
from tests.dashboards.tools import ALERTMANAGER, alerts, require_programs, run
from tests.waiting import eventually

HERE = {"installation": "here"}
QUERY, INDEXER = {**HERE, "job": "kb-query"}, {**HERE, "job": "kb-indexer"}
ONE, OTHER = {**QUERY, "instance": "one:9102"}, {**QUERY, "instance": "other:9102"}
ONLY = {**INDEXER, "instance": "indexer:9101"}
# What fires, and what else fires that it silences, and does not.
INHIBITIONS = [
    (
        ("ChromaDBDown", ONE),
        [("BreakerOpen", ONE), ("SearchQualityLost", ONE), ("SearchQualityDropped", ONE), ("DegradedAnswers", HERE)],
        [
            ("BreakerOpen", OTHER),
            ("BreakerOpen", {**ONE, "installation": "there"}),
            ("SearchQualityLost", OTHER),
            ("DegradedAnswers", {"installation": "there"}),
            ("ProjectorLagging", ONLY),
            ("SearchVerySlow", HERE),
            ("SearchErrors", HERE),
        ],
    ),
    (("ChromaDBDown", ONLY), [("ProjectorLagging", ONLY), ("ReconcileStale", ONLY)], [("DegradedAnswers", HERE), ("SearchQualityLost", ONE)]),
    (("DocumentsDamaged", ONLY), [], [("WritesLate", INDEXER), ("CommitsSlow", ONLY), ("WalGrowing", ONLY)]),
    (("WritesFailing", INDEXER), [("WritesLate", INDEXER)], [("WritesLate", {**INDEXER, "installation": "there"}), ("CommitsSlow", ONLY)]),
    (("NotReady", QUERY), [("InstanceNotReady", ONE)], [("InstanceNotReady", ONLY), ("TargetDown", OTHER)]),
    (("QueryServiceAbsent", QUERY), [("TargetDown", ONE)], [("TargetDown", ONLY), ("FeedLagging", ONE)]),
    (
        ("IndexerAbsent", INDEXER),
        [("TargetDown", ONLY), ("FeedDisconnected", ONE), ("CanaryFailing", ONE), ("DegradedAnswers", HERE)],
        [("TargetDown", ONE), ("FeedDisconnected", {**ONE, "installation": "there"})],
    ),
    (("FeedDisconnected", ONE), [("FeedLagging", ONE)], [("FeedLagging", OTHER)]),
    (("DiskVeryLow", ONE), [("DiskLow", ONE)], [("DiskLow", OTHER), ("DiskLow", ONLY)]),
    (
        ("ErrorBudgetGoneIn2Days", HERE),
        [("ErrorBudgetGoneIn5Days", HERE), ("ErrorBudgetGoneIn30Days", HERE), ("SearchErrors", HERE)],
        [("ErrorBudgetGoneIn5Days", {"installation": "there"})],
    ),
]


@asynccontextmanager
async def alertmanager(folder: Path) -> AsyncIterator[AlertmanagerApi]:
    """A real Alertmanager with the file, that nobody else tells of alerts."""
    require_programs()
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={ALERTMANAGER}", f"--storage.path={folder}", f"--web.listen-address={address}", "--cluster.listen-address=")
    api = AlertmanagerApi(f"http://{address}")
    process = ManagedProcess(
        "alertmanager", (find_programs().alertmanager, *options), log=folder / "log", ready=lambda: is_ready(api.url, timeout=2.0)
    )
    await process.start(30)
    try:
        yield api
    finally:
        await process.stop(10)


def test_alertmanager_takes_the_file() -> None:
    """`amtool check-config` accepts it."""
    ended = run("amtool", "check-config", ALERTMANAGER)

    assert ended.status == 0, ended.output


def test_its_examples_of_receivers_are_right(tmp_path: Path) -> None:
    """With the # taken away, as the file says, it is still a configuration, and each receiver tells somebody."""
    head, receivers = ALERTMANAGER.read_text().split("\nreceivers:\n")
    uncommented = tmp_path / "alertmanager.yml"
    examples = re.sub(r"^(\s*)# ", r"\1", receivers, flags=re.MULTILINE)
    uncommented.write_text(f"{head}\nreceivers:\n{examples}")
    ended = run("amtool", "check-config", uncommented)

    assert ended.status == 0, ended.output
    assert uncommented.read_text().count("_configs:") == len(read("alertmanager/alertmanager.yml")["receivers"])


@pytest.mark.parametrize(
    ("labels", "receiver"), [("severity=critical", "pager"), ("severity=warning", "team"), ("severity=info", "journal"), ("", "team")]
)
def test_severity_decides_who_hears_of_it(labels: str, receiver: str) -> None:
    """Each severity has its receiver; an alert without one is not lost."""
    ended = run(
        "amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"--verify.receivers={receiver}", *labels.split(), "alertname=x"
    )

    assert ended.status == 0, ended.output


def test_critical_alerts_come_at_once_and_again() -> None:
    """Their group waits for no more than some seconds, and is repeated sooner than others."""
    routes = {route["receiver"]: route for route in read("alertmanager/alertmanager.yml")["route"]["routes"]}

    assert routes["pager"]["group_wait"] == "5s"
    assert routes["pager"]["repeat_interval"] == "1h"


def test_inhibition_names_alerts_that_exist() -> None:
    """Every name in a rule is that of an alert; a rule with a pattern matches some."""
    names = {alert["alert"] for alert in alerts()}
    for rule in read("alertmanager/alertmanager.yml")["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, operator, value = re.fullmatch(r'(\w+)(=~?)"(.+)"', matcher).groups()  # type: ignore[union-attr] # a mismatch fails the test
            if label != "alertname":
                continue
            alternatives = re.fullmatch(r"(\w*)\(([^)]+)\)(\w*)", value)
            wanted = [f"{alternatives[1]}{part}{alternatives[3]}" for part in alternatives[2].split("|")] if alternatives else [value]
            for one in wanted:
                assert any(re.fullmatch(one, name) for name in names) if operator == "=~" else one in names, one


async def test_what_is_silenced_is_what_the_other_alert_explains(tmp_path: Path) -> None:
    """In a real Alertmanager: of the same process where both are about one, and never of another installation."""
    fixed = {alert["alert"]: {name: alert["labels"][name] for name in ("severity", "subject")} for alert in alerts()}
    wanted: dict[frozenset[tuple[str, str]], bool] = {}
    for number, (source, silenced, heard) in enumerate(INHIBITIONS):
        for expected, named in ((False, [source]), (True, silenced), (False, heard)):
            for short, labels in named:
                name = f"KnowledgeBeast{short}"
                # A number of its own keeps cases apart as a name of its own does installations.
                all_labels = {**fixed[name], **labels, "alertname": name, "installation": f"{labels['installation']} {number}"}
                wanted[frozenset(all_labels.items())] = expected

    async with alertmanager(tmp_path) as api, aiohttp.ClientSession() as session:
        async with session.post(f"{api.url}/api/v2/alerts", json=[{"labels": dict(labels)} for labels in wanted]) as answer:
            assert answer.status == 200
        await eventually(api.alerts, lambda seen: {frozenset(one.labels.items()): one.suppressed for one in seen} == wanted, seconds=10)
