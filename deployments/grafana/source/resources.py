"""What the processes use. Follows the variables `job` and `instance`."""

from __future__ import annotations

from deployments.grafana.source.style import ORANGE, RED, SERVICES, Limit, Section, lines, quantile, query

CHOSEN = '{job=~"$job", instance=~"$instance"}'
_WHO = "{{job}} {{instance}}"


def section() -> Section:
    """The row."""
    return Section(
        "Resources",
        [
            lines(
                "CPU",
                "Cores that each process uses. The query service near the number of cores of its machine: searches wait; add a replica.",
                "none",
                query(f"rate(process_cpu_seconds_total{CHOSEN}[$__rate_interval])", _WHO),
                colours=SERVICES,
            ),
            lines(
                "Memory",
                "Resident memory. It grows with the number of projects and vectors and then stays; if it grows on at the same size, it leaks.",
                "bytes",
                query(f"process_resident_memory_bytes{CHOSEN}", _WHO),
                colours=SERVICES,
            ),
            lines(
                "Open Files",
                "File descriptors in use. Each client connection and each open file of a replica is one; one that only rises is not closed.",
                "none",
                query(f"process_open_fds{CHOSEN}", _WHO),
            ),
            lines(
                "Disk Free",
                "Bytes that are free where each service keeps its data. Dashed: 10 GB warns, 5 GB is critical; below KB_DISK_RESERVE_BYTES the "
                "indexer refuses new documents.",
                "bytes",
                query(f"kb_disk_free_bytes{CHOSEN}", _WHO),
                colours=SERVICES,
                limits=[Limit(5e9, RED), Limit(10e9, ORANGE)],
            ),
            lines(
                "Event Loop Delay P99",
                "By how much the loop was late for its beat: everything else in the process waits as long. Above 100 ms something blocks it; take a "
                "profile with py-spy.",
                "s",
                query(quantile(0.99, "kb_event_loop_delay_seconds", by="job, instance", matchers=CHOSEN), _WHO),
                colours=SERVICES,
                limits=[Limit(0.1, ORANGE)],
            ),
            lines(
                "Garbage Collections",
                "Runs of Python's collector in a second, by generation. Many of generation 2 cost latency.",
                "ops",
                query(
                    f"sum by (job, generation) (rate(python_gc_collections_total{CHOSEN}[$__rate_interval]))", "{{job}}, generation {{generation}}"
                ),
            ),
        ],
    )
