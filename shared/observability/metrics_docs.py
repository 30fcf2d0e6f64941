"""Documentation of the metrics, made from their definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from shared.observability.metrics import Definition, Label

# What people ask first, and the PromQL that answers it.
EXAMPLES: Final = (
    ("Searches a second", "sum(rate(kb_query_duration_seconds_count[5m]))"),
    (
        "The time that 99 of 100 searches stay below, in seconds, by mode",
        "histogram_quantile(0.99, sum by (mode, le) (rate(kb_query_duration_seconds_bucket[5m])))",
    ),
    (
        "The share of searches that take longer than 100 ms",
        '1 - sum(rate(kb_query_duration_seconds_bucket{le="0.1"}[5m])) / sum(rate(kb_query_duration_seconds_count[5m]))',
    ),
    (
        "The share of answers that are degraded",
        'sum(rate(kb_query_duration_seconds_count{degraded="true"}[5m])) / sum(rate(kb_query_duration_seconds_count[5m]))',
    ),
    ("What degrades them", "sum by (reason) (rate(kb_degraded_answers_total[5m])) > 0"),
    (
        "The share of calls that fail by the server's own fault, by method",
        "sum by (grpc_service, grpc_method)"
        ' (rate(grpc_server_handled_total{grpc_code=~"Unknown|DeadlineExceeded|Unimplemented|Internal|Unavailable|DataLoss"}[5m]))'
        " / sum by (grpc_service, grpc_method) (rate(grpc_server_handled_total[5m]))",
    ),
    (
        "The share of searches that the result cache answers",
        "sum(rate(kb_result_cache_hits_total[10m])) / (sum(rate(kb_result_cache_hits_total[10m])) + sum(rate(kb_result_cache_misses_total[10m])))",
    ),
    (
        "How long a write takes until searches find it: the time that 95 of 100 stay below, in seconds, by leg",
        "histogram_quantile(0.95, sum by (leg, le) (rate(kb_ingest_to_searchable_seconds_bucket[15m])))",
    ),
    (
        "Calls to ChromaDB that fail, a second",
        'sum by (operation, outcome) (rate(kb_chromadb_request_duration_seconds_count{outcome!="ok"}[5m])) > 0',
    ),
    ("The part of the disk that is free", "kb_disk_free_bytes / kb_disk_size_bytes"),
)

_INTRODUCTION: Final = """\
# Metrics

Both services show their metrics for Prometheus at `/metrics` of their HTTP port: the indexer at 9101 (`KB_INDEXER_HTTP_PORT`), the query service at
9102 (`KB_QUERY_HTTP_PORT`). This page is made by `make gen` from [the module that declares them](../shared/observability/metrics.py), so it has all
of them. Beside them stand those of the Python client for the process itself, `process_*` and `python_*`.

```yaml
scrape_configs:
  - job_name: kb-indexer
    static_configs: [{ targets: ["127.0.0.1:9101"] }]
  - job_name: kb-query
    static_configs: [{ targets: ["127.0.0.1:9102"] }]
```

- **Formats.** A client that accepts OpenMetrics 1.0, as Prometheus does, gets it, others get Prometheus' text format. With OpenMetrics, buckets of
  the times of searches, their legs, calls, commits and writes carry an exemplar: the `trace_id` of a request that fell into them, if its trace is
  recorded. Prometheus keeps exemplars with `--enable-feature=exemplar-storage`.
- **From zero.** Series whose label values are listed here exist from the start, and so do those of every RPC with every status code. So the first
  error of a kind is an increase. Only those of `kb_chromadb_request_duration_seconds` come with the first call of their kind: most pairs of its
  labels never occur. A gauge that is not known yet is `NaN`, for which no comparison holds; so is a
  quantile or a share of nothing, where nothing happened in the window.
- **Bounded.** A label has the values that are listed, or the bound that is stated. The only one with projects is that of
  `kb_chromadb_collection_size`.
- **One process, one service.** Each shows its own metrics alone; the column *shown by* says which. Sums over both services, or over several query
  services, are for PromQL.
- Sizes of replica and catalog, disk, health, lag and collection sizes are brought up to date by health checks every few seconds, the others when
  something happens or when they are shown.
"""


def render(definitions: Sequence[Definition]) -> str:
    """The whole document: an introduction, examples, one table a section, and the buckets."""
    sections = dict.fromkeys(definition.section for definition in definitions)
    tables = [_section(section, [definition for definition in definitions if definition.section == section]) for section in sections]
    return "\n".join([_INTRODUCTION, _examples(), *tables, _buckets(definitions)])


def _examples() -> str:
    lines = [f"{question}:\n\n```promql\n{expression}\n```\n" for question, expression in EXAMPLES]
    return "\n".join(["## Questions and their PromQL", "", *lines])


def _section(name: str, definitions: Iterable[Definition]) -> str:
    rows = [
        f"| `{each.name}` | {each.kind} | {each.unit} | {_labels(each.labels)} | {_services(each)} | {_cell(each.text)} |" for each in definitions
    ]
    head = ["| Name | Type | Unit | Labels | Shown by | Meaning |", "|---|---|---|---|---|---|"]
    return "\n".join([f"## {name}", "", *head, *rows, ""])


def _labels(labels: Iterable[Label]) -> str:
    return "<br>".join(
        f"`{label.name}`: {', '.join(f'`{value}`' for value in label.values) if label.values else _cell(label.bound)}" for label in labels
    )


def _services(definition: Definition) -> str:
    return "both" if len(definition.services) > 1 else definition.services[0].value


def _buckets(definitions: Iterable[Definition]) -> str:
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for definition in definitions:
        if definition.buckets:
            by_bounds.setdefault(definition.buckets, []).append(f"`{definition.name}`")
    rows = [f"| {', '.join(f'{bound:g}' for bound in bounds)} | {', '.join(names)} |" for bounds, names in by_bounds.items()]
    text = "Upper bounds of the buckets of each histogram, in its unit; another bucket has what is larger than all of them."
    return "\n".join(["## Buckets", "", text, "", "| Bounds | Histograms |", "|---|---|", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
