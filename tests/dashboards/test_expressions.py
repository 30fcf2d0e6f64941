"""What is made of PromQL before it is asked outside of Grafana."""

from __future__ import annotations

import socket

import pytest
from typer.testing import CliRunner

from services.cli.main import app
from services.cli.observe import expressions, units


@pytest.mark.parametrize(
    ("alert", "compared"),
    [
        ("kb_chromadb_up == 0", "kb_chromadb_up"),
        ("0.5 > a", "a"),
        ("rate(a[5m]) / rate(b[5m]) > 0.01 and on() sum(increase(b[5m])) > 10", "rate(a[5m]) / rate(b[5m])"),
        ('absent(up{job="kb-query"} == 1)', 'up{job="kb-query"}'),
        ('absent_over_time(up{job="kb-query"}[5m])', 'up{job="kb-query"}'),
        ("kb_search_ndcg < 0.9 * max_over_time(kb_search_ndcg[1d] offset 1h)", "kb_search_ndcg"),
        ("rate(a[5m] offset 1d) > 1", "rate(a[5m])"),
        ("(a > 1 or b > 2) unless on() c", "(a or b)"),
        ("count(up == 0) > bool 1", "count(up) > bool 1"),
        ("time() - a > 3600 and a > 0", "time() - a"),
    ],
)
def test_an_alert_without_its_limits_has_a_value_also_while_all_is_well(alert: str, compared: str) -> None:
    """Comparisons, guards, offsets and questions for absence are taken off, arithmetic and functions stay."""
    assert expressions.measured(alert) == compared


def test_selectors_are_all_that_is_read_each_once() -> None:
    """Without ranges and offsets, and without those whose absence is asked for."""
    alert = 'sum(rate(a{x=~"y|z"}[5m] offset 1h)) > 0.1 and on() sum(increase(b[1h])) > 1 and b > 0 unless absent(c)'
    assert expressions.selectors(alert) == ('a{x=~"y|z"}', "b")


def test_variables_are_replaced_and_nothing_else() -> None:
    """`$1` of a label_replace is none."""
    values = {"job": "kb-.*", "__rate_interval": "15s"}
    text = 'label_replace(rate(a{job=~"$job", project=~"${project}"}[$__rate_interval]), "b", "$1", "c", "(.*)")'
    asked = 'label_replace(rate(a{job=~"kb-.*", project=~"${project}"}[15s]), "b", "$1", "c", "(.*)")'
    assert expressions.substituted(text, values) == asked


def test_a_variable_is_asked_as_the_query_behind_it() -> None:
    """Grafana's label_values is no PromQL."""
    assert expressions.label_values("label_values(kb_build_info{job=~'kb-.*'}, instance)") == "count by (instance) (kb_build_info{job=~'kb-.*'})"
    assert expressions.label_values("label_names()") is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0125, "s", "12.5 ms"),
        (0, "s", "0"),
        (0.5, "percentunit", "50 %"),
        (3 * 2**20, "bytes", "3 MiB"),
        (1234, "short", "1.23 K"),
        (20000, "none", "20,000"),
        (4, "reqps", "4 req/s"),
    ],
)
def test_previews_write_values_as_people_read_them(value: float, unit: str, text: str) -> None:
    """In the panel's unit."""
    assert units.text(value, unit) == text


@pytest.mark.parametrize("option", [["--json"], ["--previews", "pictures"]])
def test_options_of_the_check_are_refused_without_it(option: list[str]) -> None:
    """Rather than ignored. The port is taken, so that nothing is started if they are not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = CliRunner().invoke(app, ["observe", "--prometheus-port", str(taken.getsockname()[1]), *option])
    assert (answer.exit_code, "--check" in answer.output) == (2, True)
