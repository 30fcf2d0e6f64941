"""Two result files side by side, name by name. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli.bench.records import Report
from services.cli.bench.tables import Table

_COMPARED = (
    "p50_ms",
    "p99_ms",
    "per_second",
    "chunks_per_second",
    "recall_at_10_share",
    "rss_mb",
    "cost_ms",
    "to_floor_ratio",
    "to_unfiltered_ratio",
)


def compare(old: Report, new: Report, sections: Sequence[str] = ()) -> Table:
    """A row for each figure that both have: old, new, and new over old. Of these sections, of all if there are none."""
    before = {record.key: record for record in old.records}
    rows = []
    for record in new.records:
        known = before.get(record.key)
        if known is None or (sections and record.section not in sections):
            continue
        for name in _COMPARED:
            if name in record.values and known.values.get(name):
                ratio = record.values[name] / known.values[name]
                rows.append(
                    [record.section, record.size, record.name, name, f"{known.values[name]:,.4g}", f"{record.values[name]:,.4g}", f"{ratio:.2f}"]
                )
    return Table("compare", "New over old", ("section", "size", "what", "figure", "old", "new", "ratio"), rows)


def warnings(old: Report, new: Report) -> list[str]:
    """Why the two cannot be compared without care."""
    found = [
        f"{name}: {old.machine.get(name)} before, {new.machine.get(name)} now"
        for name in ("cpu", "cores", "python")
        if old.machine.get(name) != new.machine.get(name)
    ]
    for size in old.corpora.keys() & new.corpora.keys():
        prints = old.corpora[size].get("fingerprint"), new.corpora[size].get("fingerprint")
        if prints[0] != prints[1]:
            found.append(f"the corpus {size} is another one: {prints[0]} before, {prints[1]} now")
    return found
