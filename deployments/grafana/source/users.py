"""The first screen: are users all right?

Nothing on it follows the variables `job` and `instance`: a choice that somebody left there must not hide what users meet.
"""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from deployments.grafana.source.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    QUANTILES,
    RED,
    YELLOW,
    Limit,
    Panel,
    Section,
    bars,
    densities,
    dial,
    latest,
    lines,
    number,
    quantile,
    query,
    shares,
    traces_url,
)

_STRIP = (4, 5)
_SLOW = "150ms"  # from which P99 warns


def section() -> Section:
    """The row."""
    return Section("Users", [*_strip(), *_over_time(), *_spread()])


def _strip() -> list[Panel]:
    return [
        number(
            "Alerts Firing",
            "Alerts that fire now, inhibited ones included. More than 0: open Alertmanager, or look at the red lines in the panels; each alert "
            "names its runbook.",
            "none",
            latest('count(ALERTS{alertstate="firing"}) or vector(0)', "firing"),
            size=_STRIP,
            limits=[Limit(1, RED)],
        ),
        number(
            "Services Ready",
            "Processes of each service that say they take requests. Fewer than you run: look at the log of the one that is missing, and at "
            "`kb status`.",
            "none",
            latest('sum by (job) (kb_ready{job=~"kb-.*"})', "{{job}}"),
            size=_STRIP,
            base=RED,
            limits=[Limit(1, GREEN)],
            nothing="none",
        ),
        number(
            "ChromaDB",
            "What each service's last health check met. Down: searches go on with the replica's vectors and say that they are degraded; "
            "writes are acknowledged and wait. Start ChromaDB again.",
            "none",
            latest("min by (job) (kb_chromadb_up)", "{{job}}"),
            size=_STRIP,
            texts={0: ("down", RED), 1: ("up", GREEN)},
            nothing="nobody says",
        ),
        number(
            "Degraded Answers",
            "Share of the answers of the last 5 minutes that lack something. The row Resilience says why, and what stood in.",
            "percentunit",
            latest("kb:degraded:ratio_rate5m", "degraded"),
            size=_STRIP,
            limits=[Limit(0.01, YELLOW), Limit(0.05, ORANGE)],
            nothing="no searches",
            decimals=1,
        ),
        dial(
            "Cache Hit Ratio",
            "Share of the last 10 minutes that came from memory: whole answers, and the embeddings of queries that had to be searched. A low share "
            "is no fault where every query is new; a share that falls at the same load means that the cache is too small or its keys change.",
            latest("kb:result_cache_hit:ratio_rate10m", "answers"),
            latest("kb:embedding_cache_hit:ratio_rate10m", "embeddings"),
            size=_STRIP,
            base=ORANGE,
            limits=[Limit(0.5, GREEN)],
            nothing="no searches",
        ),
        number(
            "Active Projects",
            "Projects that exist, by the indexer, which owns them.",
            "none",
            latest('max(kb_active_projects{job="kb-indexer"})', "projects"),
            size=_STRIP,
            base=BLUE,
        ),
    ]


def _over_time() -> list[Panel]:
    return [
        lines(
            "Query Latency P50/P95/P99",
            "How long searches took in the query service, all modes and FindSimilar together. Dashed: 150 ms warns when P99 stays above it for "
            "5 minutes, 500 ms is critical after 2. The dots are single searches that were traced: click one to see where its time went. Then look "
            "at Stage Latency P95.",
            "s",
            query(quantile(0.5, "kb_query_duration_seconds"), "P50"),
            query(quantile(0.95, "kb_query_duration_seconds"), "P95"),
            # Once is enough: all three expressions have the same exemplars.
            query(quantile(0.99, "kb_query_duration_seconds"), "P99", exemplars=True),
            limits=[Limit(0.15, ORANGE), Limit(0.5, RED)],
            colours=QUANTILES,
        ).links([_slow_traces()]),
        lines(
            "Throughput",
            "Searches, and RPCs of each gRPC service, that ended in a second, whatever their outcome. A sudden 0 with users about means that they do "
            "not get here: look at what is in front of the services.",
            "reqps",
            query("sum(rate(kb_query_duration_seconds_count[$__rate_interval]))", "searches answered"),
            query(
                'label_replace(sum by (grpc_service) (rate(grpc_server_handled_total{grpc_service=~"knowledgebeast.*"}[$__rate_interval])), '
                '"name", "$1", "grpc_service", ".*[.](.+)")',
                "RPCs of {{name}}",
            ),
        ),
        lines(
            "Error Rate",
            "Share of RPCs of the last 5 minutes that failed by the server's fault (Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, "
            "DataLoss); what a client did wrong does not count. Dashed: 1 %, from which an alert warns after 5 minutes. Nothing was asked: 0.",
            "percentunit",
            query("kb:search_errors:ratio_rate5m", "searches"),
            query(
                'label_replace(kb:rpc_errors:ratio_rate5m{grpc_service=~"knowledgebeast.*"}, "name", "$1", "grpc_service", ".*[.](.+)")',
                "{{job}}: {{name}}",
            ),
            limits=[Limit(0.01, ORANGE)],
        ),
    ]


def _spread() -> list[Panel]:
    return [
        densities(
            "Vector Search Performance",
            "How the durations of the vector leg are spread: a column is a moment, its colour how many searches took so long. A second band above "
            "the usual one is ChromaDB being slow, or a cold start; one near the budget of the leg is searches that gave up on it.",
            "sum by (le) (increase(kb_vector_search_duration_seconds_bucket[$__rate_interval]))",
            size=(10, 9),
        ),
        shares(
            "API Response Codes",
            "gRPC status codes of all RPCs of both services in the range that is shown. Codes like NotFound and InvalidArgument are the client's; "
            "Internal and Unknown are always worth a look into the log, by request id.",
            "short",
            latest('sum by (grpc_code) (increase(grpc_server_handled_total{grpc_service=~"knowledgebeast.*"}[$__range])) > 0', "{{grpc_code}}"),
            size=(7, 9),
            colours={
                "/^OK$/": GREEN,
                "/^(Unknown|Internal|DataLoss|Unimplemented)$/": RED,
                "/^(Unavailable|DeadlineExceeded|ResourceExhausted)$/": ORANGE,
                "/^(InvalidArgument|NotFound|AlreadyExists|FailedPrecondition|Aborted|OutOfRange)$/": BLUE,
                "/^(Unauthenticated|PermissionDenied)$/": PURPLE,
                "/^Cancelled$/": GREY,
            },
        ),
        bars(
            "ChromaDB Collection Sizes",
            "Vectors that ChromaDB holds of a project: the 20 largest and the others together; the variable Project chooses. One that shrinks while "
            "nobody deletes is compared and mended by the indexer: see Differences Found.",
            "short",
            latest('max by (project) (kb_chromadb_collection_size{project=~"$project"})', "{{project}}"),
            label="project",
            size=(7, 9),
        ),
    ]


def _slow_traces() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink(f"Traces of searches slower than {_SLOW} (Jaeger)").target_blank(True)
    return link.url(traces_url(service="query", minDuration=_SLOW))
