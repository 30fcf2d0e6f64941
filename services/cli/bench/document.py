"""Puts a report's tables into a Markdown document, between the comments that mark their places. Pure but for `fill`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from services.cli.bench.records import Report
from services.cli.bench.tables import machine_line, tables

_PLACE = re.compile(r"(<!-- (?P<tag>bench|chaos): (?P<name>[a-z0-9-]+) -->\n).*?(<!-- /(?P=tag) -->)", re.DOTALL)


def fill(path: Path, report: Report) -> list[str]:
    """Writes the tables to their places in a document; names of places for which the report has nothing, which stay as they were."""
    made = {table.name: table.markdown() for table in tables(report)}
    made["machine"] = machine_line(report)
    made["corpus"] = "\n".join(
        f"- {size}: {corpus['documents']:,} documents, {corpus['chunks']:,} chunks, median {corpus['median_characters']} characters, "
        f"fingerprint `{corpus['fingerprint']}`"
        for size, corpus in report.corpora.items()
    )
    made["notes"] = "\n".join(f"- {remark}" for remark in (*report.failures, *report.notes)) or "Nothing failed, and nothing is to be remarked."
    text, missing = replaced(path.read_text(encoding="utf-8"), made)
    path.write_text(text, encoding="utf-8")
    return missing


def replaced(text: str, blocks: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text with every marked place filled, and the names of those that `blocks` does not have."""
    missing: list[str] = []

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in blocks:
            missing.append(name)
            return match[0]
        return f"{match[1]}{blocks[name]}\n{match[4]}"

    return _PLACE.sub(block, text), missing
