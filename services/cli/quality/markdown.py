"""What was measured, as tables for documents. Pure: they are made from the JSON form, so a document can be compared with its file."""

from __future__ import annotations

from typing import Any

from services.cli.quality.systems import DEFAULT

_COLUMNS = (("NDCG@10", "ndcg"), ("Recall@100", "recall"), ("MRR@10", "mrr"))


def tables(form: dict[str, Any]) -> dict[str, str]:
    """Markdown tables: one by the name of each collection; more by `<name> fp32` and `<name> outage` where those were measured too."""
    found: dict[str, str] = {}
    for collection in form["collections"]:
        found[collection["name"]] = _table(collection["systems"])
        for more in ("fp32", "outage"):
            if more in collection:
                found[f"{collection['name']} {more}"] = _table(collection[more])
    return found


def page(form: dict[str, Any]) -> str:
    """All tables, each under its name."""
    return "\n".join(f"## {name}\n\n{table}" for name, table in tables(form).items())


def _table(systems: list[dict[str, Any]]) -> str:
    kinds = list(systems[0].get("kinds", {}))
    head = ["", *(title for title, _ in _COLUMNS), *(f"NDCG@10 {kind}" for kind in kinds)]
    rows = [[system["label"], *(system[key] for _, key in _COLUMNS), *(system["kinds"][kind]["ndcg"] for kind in kinds)] for system in systems]
    lines = [head, ["---"] * len(head)]
    for system, row in zip(systems, rows, strict=True):
        cells = [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row]
        lines.append([f"**{cell}**" for cell in cells] if system["name"] == DEFAULT else cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
