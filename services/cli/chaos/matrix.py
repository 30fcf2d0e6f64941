"""The fault matrix: every row in its order."""

from __future__ import annotations

from collections.abc import Sequence

from services.cli.chaos.machine_needs import no_compiler, no_tmpfs
from services.cli.chaos.row import Row
from services.cli.chaos.rows import chromadb, disk, indexer, keyword, poison, process, requests

_TLS = "not yet: the services have neither certificates nor keys"

ROWS: Sequence[Row] = (
    Row("1", "ChromaDB is killed (kill -9)", "degraded", "acknowledged", chromadb.killed),
    Row("1b", "the same: keyword searches beside a healthy replica", "whole, as quick", "-", keyword.keyword_while_open),
    Row("2", "ChromaDB hangs (SIGSTOP)", "degraded, within their deadline", "acknowledged", chromadb.suspended),
    Row("3", "ChromaDB's packets are swallowed (proxy)", "degraded, nothing left behind", "acknowledged", chromadb.black_hole),
    Row("4", "ChromaDB is 0.5 s further away, each way (proxy)", "degraded", "acknowledged", chromadb.slow),
    Row("5", "ChromaDB's answers are reset in the middle (proxy)", "degraded", "acknowledged", chromadb.cut_off),
    Row("6", "30 % of ChromaDB's answers are 503 (proxy)", "whole or degraded", "acknowledged", chromadb.failing),
    Row("7", "ChromaDB is back, 50 callers wait", "exactly one probe, then whole", "-", chromadb.fifty_waiting, requests.rig_with_room),
    Row("8", "ChromaDB's data are wiped", "degraded until written again", "acknowledged", chromadb.wiped),
    Row("9", "ChromaDB refuses one record for good (proxy: 400)", "whole", "acknowledged, the record in quarantine", poison.poison_record),
    Row("10", "the indexer is killed again and again (kill -9)", "whole, or said to be stale", "what is acknowledged stays", indexer.killed),
    Row("11", "the indexer hangs (SIGSTOP)", "whole, or said to be stale", "DEADLINE_EXCEEDED", indexer.suspended),
    Row("12", "the catalog's disk is low (tmpfs)", "whole", "RESOURCE_EXHAUSTED", disk.low, disk.rig_with_reserve, no_tmpfs),
    Row("12b", "the same disk full to the last byte, no reserve", "whole", "RESOURCE_EXHAUSTED", disk.full, disk.rig_without_reserve, no_tmpfs),
    Row("13", "fsync fails (preloaded library)", "said to be stale", "the indexer ends", disk.fsync_fails, disk.rig_with_failing_fsync, no_compiler),
    Row("14", "a bit of the catalog is flipped", "said to be stale", "the indexer does not start", disk.damaged),
    Row("15", "an older copy of the catalog is put in its place", "copied anew", "acknowledged", disk.restored, requests.direct_rig),
    Row("16", "a second indexer on one catalog", "whole", "the second one ends", indexer.second_writer),
    Row("17", "the feed's packets are swallowed (proxy)", "said to be stale", "acknowledged", indexer.partition),
    Row("18", "the feed repeats, reorders, breaks off", "equal to the model", "-", instead="tests/reliability/test_feed_state_machine.py"),
    Row("19", "the replica's files are lost or damaged", "ready when all is there again", "acknowledged", process.replica_lost),
    Row("20", "ChromaDB and the feed are both away (proxy)", "degraded, said to be stale", "acknowledged", indexer.both_away),
    Row("21", "the clock jumps by ±1 h (preloaded library)", "whole", "acknowledged", process.clock_jumps, process.rig_with_a_clock, no_compiler),
    Row("22", "a half-written certificate", "-", "-", instead=_TLS),
    Row("23", "a revoked key", "-", "-", instead=_TLS),
    Row(
        "24",
        "ten times as many callers as are let in",
        "RESOURCE_EXHAUSTED, or quick",
        "acknowledged",
        requests.overload,
        requests.direct_rig,
    ),
    Row("25", "bombs, oversized and malformed requests", "refused as the caller's fault", "the same", requests.wrong_requests),
    Row("26", "the query service reads the feed at 2 KB/s (proxy)", "whole, behind", "acknowledged, bounded memory", indexer.slow_consumer),
    Row("27", "services are asked to stop (SIGTERM), under load", "none fails", "acknowledged or UNAVAILABLE", process.stopped),
    Row("28", "the model's file is damaged", "by keyword", "acknowledged, embedded later", process.model_damaged, process.rig_with_models),
    Row("29", "a collection is deleted behind our back", "degraded until written again", "acknowledged", chromadb.collection_deleted),
)
