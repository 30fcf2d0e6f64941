"""The runbooks: one page an alert, and everything that a page tells somebody to type exists."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import typer.main
import yaml
from typer.exceptions import TyperException

from services.cli.main import app
from services.cli.observe.configuration import read
from services.cli.observe.expressions import selectors
from services.indexer.config import IndexerSettings
from services.query.config import QuerySettings
from shared.observability.metrics import DEFINITIONS, Definition
from tests.dashboards.tools import RULES, alerts, recordings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "operations" / "runbooks"
INDEX = FOLDER / "README.md"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
ALERTS = {ROOT / alert["annotations"]["runbook_url"]: alert for alert in alerts()}
# The labels that each has when it fires, by its case for promtool; of several jobs and instances, those of one.
LABELS = {
    each["alertname"]: each["exp_alerts"][0]["exp_labels"]
    for file in RULES.glob("*.yml")
    for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
    for each in test.get("alert_rule_test", ())
    if each["exp_alerts"]
}
INHIBITIONS = read("alertmanager/alertmanager.yml")["inhibit_rules"]
HEADINGS = ["Meaning", "What users notice", "Impact", "Find the cause", "Resolve", "Verify", "Escalate", "Prevent"]
KB: Any = typer.main.get_command(app)  # typer has its own copy of click, whose types it does not export

_BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HISTOGRAM = re.compile(r"_(bucket|count|sum)$")
_TARGET_LABELS = {"job", "instance"}
# Prometheus' own, and those that prometheus-client has of every process.
_FOREIGN = {"up", "process_start_time_seconds", "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
_OPERATORS = {"|", "||", "&&", ";", ">", "2>", "&"}

every_page = pytest.mark.parametrize("path", [*PAGES, INDEX], ids=lambda path: path.stem)
every_alerts_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    """The pages are those that the alerts name as their runbook_url, and no others."""
    assert sorted(ALERTS) == PAGES


def test_the_index_lists_every_alert_with_its_severity_in_the_order_of_the_file() -> None:
    """One row an alert: name, page, severity, and a sentence."""
    rows = re.findall(r"^\| \[(\w+)\]\(([a-z0-9-]+\.md)\) \| (\w+) \| .+ \|$", INDEX.read_text(encoding="utf-8"), re.MULTILINE)

    assert rows == [(alert["alert"], path.name, alert["labels"]["severity"]) for path, alert in ALERTS.items()]


@every_alerts_page
def test_a_page_is_titled_with_its_alert_and_has_every_part_in_order(path: Path) -> None:
    """The alert's name, its severity, and eight parts of which none is empty."""
    text = path.read_text(encoding="utf-8")
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)

    assert text.startswith(f"# {ALERTS[path]['alert']}\n\n**{ALERTS[path]['labels']['severity']}**, ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in parts)


@every_alerts_page
def test_a_page_has_numbered_causes_and_steps(path: Path) -> None:
    """Check-list and remedy are lists that are numbered from 1 without gaps, and at least one cause comes with something to type."""
    text = path.read_text(encoding="utf-8")
    for heading in ("Find the cause", "Resolve"):
        numbers = [int(number) for number in re.findall(r"^(\d+)\. ", _part(text, heading), re.MULTILINE)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers

    assert _BLOCK.search(_part(text, "Find the cause"))


@every_alerts_page
def test_a_page_ends_with_the_alerts_own_expression(path: Path) -> None:
    """So that who changes an alert changes what its page says of when it is over."""
    asked = [promql.parse(expression).prettify() for expression in _expressions(_part(path.read_text(encoding="utf-8"), "Verify"))]

    assert promql.parse(ALERTS[path]["expr"]).prettify() in asked


def test_pages_name_what_silences_their_alert_and_what_it_silences() -> None:
    """The second line agrees with Alertmanager's rules, both ways."""
    assert set(_said()) == set(_pairs())


def test_every_rule_of_silence_can_come_true() -> None:
    """Each alert that a rule names is in a pair that has the labels which the rule compares; and every rule stays within an installation."""
    for rule in INHIBITIONS:
        pairs = list(_pairs_of(rule))
        for matchers, side in ((rule["source_matchers"], 0), (rule["target_matchers"], 1)):
            if not any(matcher.startswith("severity") for matcher in matchers):
                assert {pair[side] for pair in pairs} == {alert["alert"] for alert in ALERTS.values() if _matches(matchers, alert)}, rule
        assert "installation" in rule["equal"]


@every_page
def test_kb_commands_can_be_typed_as_they_stand(path: Path) -> None:
    """Command, options and values of every line in a block are what the command line takes; in the text, commands and options exist."""
    text = path.read_text(encoding="utf-8")
    for line in _lines(text, "sh"):
        for words in _commands(line):
            if words[0] == "kb":
                _parse(words[1:])
    for words in (shlex.split(code) for code in re.findall(r"`(kb [^`]+)`", _prose(text))):
        command, rest = _command(words[1:])
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        assert [word for word in rest if word.startswith("-") and word not in options] == [], " ".join(words)


@every_page
def test_variables_of_the_shell_are_set_in_the_index(path: Path) -> None:
    """`$LOGS` and the like stand in the README's first block, with what `kb up` has."""
    known = set(re.findall(r"\b([A-Z_]+)=", next(block for kind, block in _BLOCK.findall(INDEX.read_text(encoding="utf-8")) if kind == "sh")))
    text = path.read_text(encoding="utf-8")

    assert known >= {"LOGS", "PROM", "QUERY_HTTP"}
    assert {name for line in _lines(text, "sh") for name in re.findall(r"\$([A-Z_]+)", line)} <= known | {"PATH", "PWD"}


@every_page
def test_settings_exist(path: Path) -> None:
    """Every KB_* is a setting of a service, or one that the command line reads."""
    settings = {f"KB_{field.upper()}" for service in (IndexerSettings, QuerySettings) for field in service.model_fields}
    read_by_kb = {parameter.envvar for command in _all(KB) for parameter in command.params if parameter.envvar}

    assert set(re.findall(r"\bKB_[A-Z][A-Z_]*\b", path.read_text(encoding="utf-8"))) <= settings | read_by_kb


@every_page
def test_expressions_parse_and_ask_for_series_that_exist(path: Path) -> None:
    """Names are metrics or recording rules, labels and their values are those of the metric."""
    recorded = {rule["record"] for rule in recordings()}
    for expression in _expressions(path.read_text(encoding="utf-8")):
        for selector in (*selectors(expression), *re.findall(r"absent\((\w+\{[^}]*\})", expression)):
            series = promql.parse(selector)
            assert isinstance(series, promql.VectorSelector)
            name = series.name or ""
            metric = _metric(name)
            assert metric or name in recorded | _FOREIGN, f"{name} in {expression}"
            for matcher in series.matchers.matchers:
                _check_matcher(matcher, metric, f"{matcher} in {expression}")


@every_page
def test_metrics_in_the_text_exist(path: Path) -> None:
    """Also where nothing is asked: in sentences."""
    named = set(re.findall(r"`(kb_[a-z_]+)`", path.read_text(encoding="utf-8")))

    assert [name for name in named if _metric(name) is None] == []


@every_page
def test_events_that_are_looked_for_in_logs_are_logged(path: Path) -> None:
    """What a page greps for as `"event":"…"` or compares `.event` with is a text of the code."""
    code = "\n".join(file.read_text(encoding="utf-8") for folder in ("services", "shared") for file in (ROOT / folder).rglob("*.py"))
    text = path.read_text(encoding="utf-8")
    events = re.findall(r'"event":"([^"]+)"', text) + re.findall(r'\.event == "([^"]+)"', text) + re.findall(r"grep -h '([^\"']+)' \$LOGS", text)

    assert [event for event in events if event not in code] == []


@every_page
def test_links_lead_to_files_and_headings(path: Path) -> None:
    """Relative links name files of the repository, and their anchors headings in them."""
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))):
        file = path.parent / target
        assert file.exists(), target
        assert not anchor or anchor in _anchors(file), f"{target}#{anchor}"


def _part(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _lines(text: str, kind: str) -> Iterator[str]:
    for found, block in _BLOCK.findall(text):
        if found == kind:
            yield from (line.strip() for line in block.splitlines() if line.strip())


def _prose(text: str) -> str:
    return _BLOCK.sub("", text)


def _expressions(text: str) -> list[str]:
    """One a line; `promql` blocks of pages have no others."""
    return list(_lines(text, "promql"))


def _commands(line: str) -> Iterator[list[str]]:
    """The commands of a line of shell, without what they are redirected to."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|;&>")
    words.whitespace_split = True
    command: list[str] = []
    redirected = False
    for word in words:
        if word in _OPERATORS:
            redirected = word.endswith(">")
            if not redirected and command:
                yield command
                command = []
        elif not redirected:
            command.append(word)
    if command:
        yield command


def _command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and those behind. Fails if there is none."""
    command, rest = KB, list(words)
    while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
        name = rest.pop(0)
        assert name in command.commands, f"kb has no command {' '.join(words)}"
        command = command.commands[name]
    return command, rest


def _parse(words: list[str]) -> None:
    command, rest = _command(words)
    try:
        command.make_context(command.name, rest)
    except TyperException as error:
        pytest.fail(f"kb {' '.join(words)}: {error}")


def _all(command: Any) -> Iterator[Any]:  # noqa: ANN401 - see KB
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _all(each)


def _metric(name: str) -> Definition | None:
    """The metric that shows a series of this name."""
    base = _HISTOGRAM.sub("", name)
    return next((each for each in DEFINITIONS if each.name == name or (each.kind == "histogram" and each.name == base)), None)


def _check_matcher(matcher: promql.Matcher, metric: Definition | None, where: str) -> None:
    if matcher.name == "job":
        jobs = {job["job_name"] for job in read("prometheus/prometheus.yml")["scrape_configs"]}
        assert any(re.fullmatch(matcher.value, job) for job in jobs), where
    elif matcher.name not in _TARGET_LABELS and metric is not None:
        label = next((label for label in metric.labels if label.name == matcher.name), None)
        assert label is not None, where
        assert not label.values or any(re.fullmatch(matcher.value, value) for value in label.values), where


def _anchors(file: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", file.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _pairs() -> Iterator[tuple[str, str]]:
    """Alerts of which the first silences the second."""
    for rule in INHIBITIONS:
        yield from _pairs_of(rule)


def _pairs_of(rule: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for source, target in itertools.permutations(ALERTS.values(), 2):
        if _matches(rule["source_matchers"], source) and _matches(rule["target_matchers"], target) and _alike(rule["equal"], source, target):
            yield source["alert"], target["alert"]


def _alike(names: list[str], source: dict[str, Any], target: dict[str, Any]) -> bool:
    """Whether two alerts can be equal in these labels: both have them, or neither, and the subject is the same."""
    ours, theirs = LABELS[source["alert"]], LABELS[target["alert"]]
    return all((name in ours) == (name in theirs) for name in names) and ("subject" not in names or ours["subject"] == theirs["subject"])


def _matches(matchers: list[str], alert: dict[str, Any]) -> bool:
    labels = {**LABELS[alert["alert"]], "alertname": alert["alert"]}
    for matcher in matchers:
        name, operator, value = re.findall(r'(\w+)(=~?)"(.+)"', matcher)[0]
        actual = labels.get(name, "")
        if not (re.fullmatch(value, actual) if operator == "=~" else value == actual):
            return False
    return True


def _said() -> Iterator[tuple[str, str]]:
    """What the pages' second lines say, from both sides; a pair that only one of both pages has is a fault."""
    sides: dict[str, set[tuple[str, str]]] = {"Silences": set(), "Silenced by": set()}
    for path, alert in ALERTS.items():
        line = path.read_text(encoding="utf-8").splitlines()[2]
        for how, found in sides.items():
            for link in re.findall(r"\((\S+\.md)\)", line.partition(f"{how} ")[2].partition(". ")[0]):
                other = ALERTS[FOLDER / link]["alert"]
                found.add((alert["alert"], other) if how == "Silences" else (other, alert["alert"]))
    assert sides["Silences"] == sides["Silenced by"]
    yield from sides["Silences"]
