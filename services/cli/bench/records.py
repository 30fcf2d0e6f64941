"""What a run found, and how it is kept: a flat list of records, so that two runs can be compared name by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from services.cli.bench.stats import Ratio
from shared.errors import InvalidArgumentError

FORMAT = 1
Labels = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Record:
    """One thing that was measured.

    Attributes:
        section: The part of the benchmark.
        size: The corpus, for example `10k`; empty where none is needed.
        name: What it is; one within section and size.
        labels: What tells it from others, for tables and charts.
        n: How many searches, documents or chunks it rests on.
        values: The figures; the end of a name is its unit: `_ms`, `_mb`, `_per_second`, `_share` (0 to 1), `_ratio`.
    """

    section: str
    size: str
    name: str
    labels: Labels = field(default_factory=dict)
    n: int = 0
    values: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by."""
        return self.section, self.size, self.name


@dataclass(frozen=True, slots=True)
class Report:
    """A run: where it ran, on what, and what it found.

    Attributes:
        machine: What `machine.describe` says.
        corpora: By name of the size, what is known of each corpus.
        options: What the run was asked for.
        records: What was found.
        notes: What a reader should know to read the figures right.
        failures: What was to be measured and was not, or not wholly.
    """

    machine: Mapping[str, Any]
    corpora: Mapping[str, Any]
    options: Mapping[str, Any]
    records: Sequence[Record]
    notes: Sequence[str] = ()
    failures: Sequence[str] = ()

    def find(self, section: str, size: str | None = None, name: str | None = None, labels: Labels | None = None) -> Iterator[Record]:
        """The records of a section that have this size, name and labels."""
        for record in self.records:
            if record.section != section or (size is not None and record.size != size) or (name is not None and record.name != name):
                continue
            if all(record.labels.get(key) == value for key, value in (labels or {}).items()):
                yield record


def ratio_values(prefix: str, ratio: Ratio | None) -> dict[str, float]:
    """A ratio as figures: `<prefix>_ratio`, the bounds of its middle half, and the number of pairs; nothing if there is none."""
    if ratio is None:
        return {}
    return {
        f"{prefix}_ratio": ratio.median,
        f"{prefix}_low_ratio": ratio.low,
        f"{prefix}_high_ratio": ratio.high,
        f"{prefix}_pairs": float(ratio.pairs),
    }


def save(report: Report, path: Path, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Writes the report with its verdicts as JSON."""
    value = {"format": FORMAT, **asdict(report), "verdicts": list(verdicts)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(_rounded(value), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def load(path: Path) -> Report:
    """Reads what `save` wrote. Raises InvalidArgumentError if it is something else."""
    try:
        value = orjson.loads(path.read_bytes())
        if value["format"] != FORMAT:
            raise InvalidArgumentError(f"{path} has format {value['format']}, this version reads {FORMAT}")
        found = [Record(**record) for record in value["records"]]
        return Report(value["machine"], value["corpora"], value["options"], found, tuple(value["notes"]), tuple(value.get("failures", ())))
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidArgumentError(f"{path} is not a result file of `kb bench`") from error


def merge(reports: Sequence[Report]) -> Report:
    """Several runs as one: of a section that more than one measured for the same size, the last run counts; so does the last run's machine."""
    taken: dict[tuple[str, str], list[Record]] = {}
    for report in reports:
        taken |= {(section, size): [] for section, size in {(record.section, record.size) for record in report.records}}
        for record in report.records:
            taken[record.section, record.size].append(record)
    last = reports[-1]
    return Report(
        machine=last.machine,
        corpora={name: corpus for report in reports for name, corpus in report.corpora.items()},
        options=last.options,
        records=[record for records in taken.values() for record in records],
        notes=tuple(dict.fromkeys(note for report in reports for note in report.notes)),
        failures=tuple(dict.fromkeys(failure for report in reports for failure in report.failures)),
    )


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Floats to six significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
