"""What was promised, and how much of it is left."""

from __future__ import annotations

from deployments.grafana.source.style import GREEN, ORANGE, RED, Limit, Section, latest, lines, number, query


def section() -> Section:
    """The row."""
    return Section(
        "SLO",
        [
            number(
                "Error Budget Left",
                "99.9 % of the searches of 30 days are to be answered; this is what is left of the other 0.1 %. Below 0 the promise is broken: put "
                "changes off that are not repairs. In the first days there have been few searches, so that one error spends much.",
                "percentunit",
                latest("kb:error_budget:remaining_ratio30d", "left"),
                size=(4, 8),
                base=RED,
                limits=[Limit(0, ORANGE), Limit(0.25, GREEN)],
                decimals=1,
            ),
            lines(
                "Burn Rate",
                "How many times faster than evenly the error budget is being spent: at 1 it lasts 30 days. Dashed: 14.4 and 6 page when the shorter "
                "window agrees. Nothing was asked: 0.",
                "none",
                query("kb:error_budget:burn_rate1h", "1 h"),
                query("kb:error_budget:burn_rate6h", "6 h"),
                size=(7, 8),
                limits=[Limit(6, ORANGE), Limit(14.4, RED)],
            ),
            lines(
                "Searches Faster Than 100 ms",
                "Share of the searches of the last 5 minutes that were answered within 100 ms.",
                "percentunit",
                query("1 - kb:search_slow:ratio_rate5m", "within 100 ms"),
                size=(6, 8),
                most=1,
            ),
            lines(
                "Search Quality (NDCG@10)",
                "How good the answers to the canary's golden queries were in each query service, 0 to 1. A drop without a change is worth a page: "
                "the model, the collections or the fusion are not what they were. Has data only where KB_CANARY_INTERVAL is set; "
                "a gap is a run that failed.",
                "none",
                query("kb_search_ndcg", "{{instance}}"),
                size=(7, 8),
                most=1,
            ),
        ],
    )
