"""Whether what is shown here can be believed. Follows the variables `job` and `instance`."""

from __future__ import annotations

from deployments.grafana.source.resources import CHOSEN
from deployments.grafana.source.style import BLUE, LEVELS, SERVICES, Section, latest, lines, number, query


def section() -> Section:
    """The row."""
    return Section(
        "Observability",
        [
            lines(
                "Spans Exported and Dropped",
                "Spans a second that the trace collector has taken, and that were lost: queue_full when too many waited, export_failed when the "
                "collector did not take them. All 0 without KB_TRACE_ENDPOINT.",
                "ops",
                query(f"sum by (job) (rate(kb_spans_exported_total{CHOSEN}[$__rate_interval]))", "{{job}}: exported"),
                query(f"sum by (job, reason) (rate(kb_spans_dropped_total{CHOSEN}[$__rate_interval]))", "{{job}}: {{reason}}"),
                size=(7, 8),
            ),
            lines(
                "Log Lines by Level",
                "Lines a second. A rise of warnings or errors is worth reading: the access line of each request names it.",
                "ops",
                query(f"sum by (level) (rate(kb_log_lines_total{CHOSEN}[$__rate_interval]))", "{{level}}"),
                query(f"sum(rate(kb_log_lines_lost_total{CHOSEN}[$__rate_interval]))", "lost"),
                size=(7, 8),
                colours=LEVELS,
                stacked=True,
            ),
            lines(
                "Scrape Duration",
                "How long Prometheus waited for each target's /metrics. A gap is a target that did not answer.",
                "s",
                query('scrape_duration_seconds{job=~"$job", instance=~"$instance"}', "{{job}} {{instance}}"),
                size=(6, 8),
                colours=SERVICES,
            ),
            number(
                "Running Versions",
                "Processes by service and version. Two versions of a service: a roll-out is under way, or has stopped half-way.",
                "none",
                latest(f"count by (service, version) (kb_build_info{CHOSEN})", "{{service}} {{version}}"),
                size=(4, 8),
                base=BLUE,
            ),
        ],
    )
