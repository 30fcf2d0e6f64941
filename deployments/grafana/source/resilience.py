"""What fails, and what is done about it."""

from __future__ import annotations

from deployments.grafana.source.style import GREEN, ORANGE, OUTCOMES, RED, SERVICES, Section, lines, quantile, query, states

_PER_ANSWER = "scalar(clamp_min(sum(rate(kb_query_duration_seconds_count[$__rate_interval])), 1e-9))"


def section() -> Section:
    """The row."""
    return Section(
        "Resilience",
        [
            lines(
                "Degraded Ratio by Reason",
                "Share of answers that were degraded, by reason; an answer may have more than one. vector_store_unavailable is ChromaDB; "
                "replica_stale is the feed, that is the indexer or the network to it; embedding_unavailable is the model. All 0 when all is well.",
                "percentunit",
                query(f"sum by (reason) (rate(kb_degraded_answers_total[$__rate_interval])) / {_PER_ANSWER}", "{{reason}}"),
            ),
            lines(
                "What Stood In",
                "Searches a second whose vector leg could not be run as it should, by what stood in: the replica's own vectors (as good as "
                "ChromaDB), the last good answer, keywords alone; refused: nothing could. All 0 when all is well.",
                "reqps",
                query("sum by (step) (rate(kb_fallback_answers_total[$__rate_interval]))", "{{step}}"),
                stacked=True,
            ),
            states(
                "Breaker State",
                "The breaker around ChromaDB in each process. Open: no call is made, searches use what stands in; half-open: one call probes. One "
                "that opens again and again means that ChromaDB answers its heartbeat but not its queries.",
                query("kb_breaker_state", "{{job}} {{instance}}"),
                texts={0: ("closed", GREEN), 1: ("half-open", ORANGE), 2: ("open", RED)},
                size=(8, 8),
            ),
            lines(
                "Retries by Outcome",
                "Calls to ChromaDB in a second, by how their retrying ended. Recovered: a retry saved the call. attempts_spent, no_time and "
                "no_budget: it failed all the same; cancelled: whoever wanted it was gone.",
                "ops",
                query("sum by (outcome) (rate(kb_retries_total[$__rate_interval]))", "{{outcome}}"),
                colours=OUTCOMES,
            ),
            lines(
                "Retry Budget",
                "Retries that could be made now, in each process. It fills with successful calls; near 0 there are no retries, so that an outage is "
                "not met with twice the load.",
                "none",
                query("min by (job, instance) (kb_retry_budget)", "{{job}} {{instance}}"),
                colours=SERVICES,
            ),
            lines(
                "Requests in Flight, Waiting and Shed",
                "RPCs that run, that wait to be let in, and (a second) that were refused because there was too much to do. Shed ones are for the "
                "client to send again later; if they go on, there are too few replicas or cores. In the indexer each open feed is in flight.",
                "short",
                query("sum by (job) (kb_requests_in_flight)", "{{job}}: in flight"),
                query("sum by (job) (kb_requests_waiting)", "{{job}}: waiting"),
                query("sum by (job) (rate(kb_requests_shed_total[$__rate_interval]))", "{{job}}: shed a second"),
            ),
            lines(
                "ChromaDB Call Latency P95 by Operation",
                "Each attempt at a call counts. query is what searches wait for; add and delete are the projector's, and slow ones only delay when "
                "writes are found by meaning. An operation that nobody calls has a gap.",
                "s",
                query(quantile(0.95, "kb_chromadb_request_duration_seconds", by="operation"), "{{operation}}"),
                size=(12, 8),
            ),
            lines(
                "ChromaDB Calls by Outcome",
                "Attempts at calls in a second. unavailable and cancelled are what opens the breaker; refused and error are worth the log.",
                "ops",
                query("sum by (outcome) (rate(kb_chromadb_request_duration_seconds_count[$__rate_interval]))", "{{outcome}}"),
                size=(12, 8),
                stacked=True,
                colours=OUTCOMES,
            ),
        ],
    )
