"""The outcome of all rows: as a table for a terminal or a document, and as JSON. Pure but for `save`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench.document import replaced
from services.cli.bench.tables import Table
from services.cli.chaos.outcome import Outcome
from services.cli.chaos.plan import Plan
from services.cli.chaos.row import Row

_NONE = "–"
_DOCUMENT = "reliability.md"
_RESULT = "chaos.json"


def matrix(rows: Sequence[Row]) -> Table:
    """What there is to run, and what is not run here."""
    columns = ("fault", "searches", "writes", "here")
    cells = [(f"{row.name}. {row.fault}", row.queries, row.writes, row.skipped() or "runs") for row in rows]
    return Table("matrix", "The fault matrix", columns, cells)


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each fault."""
    columns = ("fault", "requests", "answered", "degraded", "errors", "worst", "acknowledged", "found", "recovered", "promises")
    return Table("table", "The fault matrix, under load", columns, [_cells(outcome) for outcome in outcomes])


def promises(outcomes: Sequence[Outcome]) -> Table:
    """Each promise, and what was seen."""
    rows = [(f"{outcome.row}: {check.promise}", check.seen, "yes" if check.kept else "**no**") for outcome in outcomes for check in outcome.checks]
    return Table("promises", "Promises", ("row: promise", "seen", "kept"), rows)


def remarks(outcomes: Sequence[Outcome]) -> Sequence[str]:
    """What is to be known of single rows."""
    return [f"row {outcome.row}: {note}" for outcome in outcomes for note in outcome.notes]


def conditions(plan: Plan, settings: Mapping[str, str], machine: Mapping[str, Any]) -> Sequence[str]:
    """Under which load, with which settings and where it was run: a line each."""
    load = f"{plan.searches_per_second:g} hybrid searches and {plan.writes_per_second:g} writes a second, each with a deadline of {plan.deadline:g} s"
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, Linux {machine['kernel']}, Python {machine['python']}"
    commit = f"commit {machine['commit'] or 'unknown'}{' with changes' if machine['dirty'] else ''}"
    return (
        f"Each fault lasts {plan.seconds:g} s, under {load}.",
        f"Not as by default: {', '.join(f'{name}={value}' for name, value in settings.items())}.",
        f"{where}, {commit}, {machine['time']}.",
    )


def as_json(outcomes: Sequence[Outcome], plan: Plan, settings: Mapping[str, str], machine: Mapping[str, Any]) -> dict[str, Any]:
    """All of it."""
    return {
        "kept": not any(outcome.broken for outcome in outcomes),
        "plan": asdict(plan),
        "settings": dict(settings),
        "machine": dict(machine),
        "rows": [asdict(outcome) for outcome in outcomes],
    }


def save(folder: Path, outcomes: Sequence[Outcome], form: Mapping[str, Any], said: Sequence[str]) -> Sequence[Path]:
    """Writes the JSON, and fills the marked places of `reliability.md` if the folder has one; the files that were written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / _RESULT]
    written[0].write_bytes(orjson.dumps(form, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    document = folder / _DOCUMENT
    if document.exists():
        blocks = {
            "conditions": "\n".join(f"- {line}" for line in said),
            "table": table(outcomes).markdown(),
            "promises": promises(outcomes).markdown(),
            "remarks": "\n".join(f"- {remark}" for remark in remarks(outcomes)) or "There is nothing to remark.",
        }
        text, _ = replaced(document.read_text(encoding="utf-8"), blocks)
        document.write_text(text, encoding="utf-8")
        written.append(document)
    return written


def _cells(outcome: Outcome) -> Sequence[str]:
    if outcome.skipped is not None:
        return (f"{outcome.row}. {outcome.fault}", *[_NONE] * 8, f"not run: {outcome.skipped}")
    errors = ", ".join(f"{count} {reason}" for reason, count in outcome.errors.items()) or "0"
    searched, wrote = outcome.requests > 0, outcome.sent > 0
    return (
        f"{outcome.row}. {outcome.fault}",
        f"{outcome.requests:,}" if searched else _NONE,
        f"{outcome.answered:,}" if searched else _NONE,
        f"{outcome.degraded:,}" if searched else _NONE,
        errors if searched else _NONE,
        f"{outcome.worst * 1e3:,.0f} ms" if searched else _NONE,
        f"{outcome.acknowledged:,} of {outcome.sent:,}" if wrote else _NONE,
        f"{outcome.found:,}" if wrote and outcome.found is not None else _NONE,
        _NONE if outcome.recovery is None else f"{outcome.recovery:.1f} s",
        f"**{len(outcome.broken)} broken**" if outcome.broken else f"{len(outcome.checks)} kept",
    )
