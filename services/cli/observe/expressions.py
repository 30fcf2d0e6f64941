"""PromQL out of dashboards and rules, made so that it can be asked outside of them. Pure. Needs promql-parser (the `dev` extra)."""

from __future__ import annotations

import re
from collections.abc import Mapping

import promql_parser as promql

_COMPARISONS = frozenset({"==", "!=", ">", "<", ">=", "<="})
_NARROWING = frozenset({"and", "unless"})
_ABSENCE = frozenset({"absent", "absent_over_time"})
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


def substituted(expression: str, values: Mapping[str, str]) -> str:
    """The expression with Grafana's variables replaced: `$name` and `${name}` of those in `values`. Others stay, `$1` of a label_replace included."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], found[0]), expression)


def one_line(expression: str) -> str:
    """The expression without line breaks and indentation."""
    return " ".join(expression.split())


def selectors(expression: str) -> tuple[str, ...]:
    """Every selector of series in it, each once, without range and offset; but not those whose absence is asked for: they may well be absent.

    Raises ValueError if it is no PromQL.
    """
    found: dict[str, None] = {}
    for node in _nodes(_without_absence(promql.parse(expression))):
        if isinstance(node, promql.VectorSelector):
            found[_now(node)] = None
    return tuple(found)


def measured(expression: str) -> str:
    """What an alert compares: the expression without its limits, guards and offsets, so that it has a value also while all is well.

    `rate(errors[5m]) > 0.01 and on() sum(rate(all[5m])) > 1` becomes `rate(errors[5m])`. Raises ValueError if it is no PromQL.
    """
    return one_line(promql.transform(promql.parse(expression), None, _bared).prettify())


def label_values(definition: str) -> str | None:
    """What a variable `label_values(series, label)` asks, as PromQL; None of another kind of variable."""
    found = _LABEL_VALUES.fullmatch(definition.strip())
    return None if found is None else f"count by ({found[2]}) ({found[1]})"


def _nodes(expression: promql.Expr) -> list[promql.Expr]:
    found: list[promql.Expr] = []
    promql.walk(expression, found.append)  # returns None, which means: go on
    return found


def _bared(node: promql.Expr) -> promql.Expr | None:
    if isinstance(node, promql.BinaryExpr):
        if str(node.op) in _NARROWING:
            return node.lhs
        if str(node.op) in _COMPARISONS and not (node.modifier and node.modifier.return_bool):
            return node.rhs if isinstance(node.lhs, promql.NumberLiteral) else node.lhs
    if isinstance(node, promql.Call) and node.func.name in _ABSENCE:
        inner: promql.Expr = node.args[0]
        return inner.vector_selector if isinstance(inner, promql.MatrixSelector) else inner
    if isinstance(node, promql.VectorSelector):
        return promql.parse(_now(node))
    return None


def _without_absence(expression: promql.Expr) -> promql.Expr:
    def nothing(node: promql.Expr) -> promql.Expr | None:
        return promql.NumberLiteral.parse("0") if isinstance(node, promql.Call) and node.func.name in _ABSENCE else None

    return promql.transform(expression, None, nothing)


def _now(selector: promql.VectorSelector) -> str:
    """As PromQL: `name{label="value"}`; without an offset, because a young Prometheus has no yesterday."""
    matchers = ",".join(str(matcher) for matcher in selector.matchers.matchers)
    return f"{selector.name or ''}{{{matchers}}}" if matchers else selector.name or ""
