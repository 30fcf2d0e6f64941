"""Where a search spends its time."""

from __future__ import annotations

from deployments.grafana.source.style import Section, lines, quantile, query


def section() -> Section:
    """The row."""
    return Section(
        "Searches",
        [
            lines(
                "Stage Latency P95",
                "Which stage is slow when searches are. The legs run at the same time, so their times do not add up. Embedding includes waiting for "
                "a free core: if it grows with the load, there are too few; if vector search grows, look at ChromaDB Call Latency.",
                "s",
                query(quantile(0.95, "kb_vector_search_duration_seconds"), "vector leg"),
                query(quantile(0.95, "kb_keyword_search_duration_seconds"), "keyword leg"),
                query(quantile(0.95, "kb_embedding_duration_seconds", matchers='{job="kb-query"}'), "embedding"),
                query(quantile(0.95, "kb_fusion_duration_seconds"), "fusion"),
            ),
            lines(
                "Searches by Mode",
                "Searches answered in a second, by mode (similar: FindSimilar) and whether the answer was degraded.",
                "reqps",
                query('sum by (mode) (rate(kb_query_duration_seconds_count{degraded="false"}[$__rate_interval]))', "{{mode}}"),
                query('sum by (mode) (rate(kb_query_duration_seconds_count{degraded="true"}[$__rate_interval]))', "{{mode}}, degraded"),
                stacked=True,
            ),
            lines(
                "Cache Look-ups",
                "Look-ups in the two caches in a second, and searches that waited for an identical one under way. Misses that rise at the same load "
                "mean that keys change (writes into the project, other parameters) or that the cache is full.",
                "ops",
                query("sum(rate(kb_result_cache_hits_total[$__rate_interval]))", "answers, hit"),
                query("sum(rate(kb_result_cache_misses_total[$__rate_interval]))", "answers, missed"),
                query("sum(rate(kb_embedding_cache_hits_total[$__rate_interval]))", "embeddings, hit"),
                query("sum(rate(kb_embedding_cache_misses_total[$__rate_interval]))", "embeddings, missed"),
                query("sum(rate(kb_searches_shared_total[$__rate_interval]))", "shared"),
            ),
        ],
    )
