"""What the check has found: as a table and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from services.cli.bench.tables import Table

if TYPE_CHECKING:  # it needs promql-parser, a development extra; `kb` starts without
    from services.cli.observe.check import Finding

_NONE = "–"
_SHOWN = 38  # characters of an expression, and of what is said of it


def table(findings: Sequence[Finding]) -> Table:
    """A row for each expression."""
    columns = ("name", "kind", "expression", "series", "value", "ok")
    return Table("observe-check", "What the dashboard and the rules ask, asked", columns, [_cells(one) for one in findings])


def broken(findings: Sequence[Finding]) -> list[Finding]:
    """Those that are not all right."""
    return [one for one in findings if one.problem]


def summary(findings: Sequence[Finding]) -> str:
    """`57 panel, 30 alert, …: all return data`."""
    kinds = {one.kind: sum(other.kind == one.kind for other in findings) for one in findings}
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    wrong = len(broken(findings))
    return f"{counts}: {f'{wrong} of {len(findings)} return nothing' if wrong else 'all return data'}"


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """All of it."""
    return {"ok": not broken(findings), "findings": [asdict(one) for one in findings]}


def _cells(one: Finding) -> Sequence[str]:
    value = _NONE if one.value is None else f"{one.value:.4g}"
    said = f"no: {one.problem}" if one.problem else "yes" + (f", {one.note}" if one.note else "")
    return (one.name, one.kind, _short(one.expression), f"{one.series:,}", value, said if one.problem else _short(said))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
