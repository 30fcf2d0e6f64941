"""Client channels with the settings that fit our servers."""

from __future__ import annotations

import json
from typing import Final

import grpc
import grpc.aio

from shared.rpc.propagation import client_interceptors

# What a client of any language should be told (https://github.com/grpc/grpc/blob/master/doc/service_config.md): a call that met UNAVAILABLE is made
# again, on another replica if there is one. Only calls that may be made twice without a difference: searches and reads, writes and deletes of
# documents, and what carries a request id. Not streams, whose clients go on from where they were, nor changing and deleting a project.
SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],  # a name with several addresses (headless Service) is spread over all of them
    "methodConfig": [
        {
            "name": [
                {"service": "knowledgebeast.query.v1.QueryService"},
                {"service": "knowledgebeast.indexer.v1.ProjectService", "method": "GetProject"},
                {"service": "knowledgebeast.indexer.v1.ProjectService", "method": "ListProjects"},
                {"service": "knowledgebeast.indexer.v1.ProjectService", "method": "CreateProject"},
                {"service": "knowledgebeast.indexer.v1.IndexerService", "method": "UpsertDocuments"},
                {"service": "knowledgebeast.indexer.v1.IndexerService", "method": "DeleteDocuments"},
                {"service": "knowledgebeast.indexer.v1.IndexerService", "method": "GetDocument"},
                {"service": "knowledgebeast.indexer.v1.IndexerService", "method": "ListDocuments"},
                {"service": "knowledgebeast.ops.v1.StatusService"},
                {"service": "knowledgebeast.ops.v1.LoggingService"},
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 3,
                # CANCELLED by the server (a client's own cancel is not retried): one that goes down says so to calls that it had not taken yet.
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ],
    # A channel on which more than a third of the calls fail stops retrying, so that an outage is not made worse.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.5},
}

_OPTIONS: Final = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died without a word is found within 40 s, also while only a feed waits on it
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),  # no limit: a feed may be silent for long, and its keepalive pings must go on
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the time that one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 5_000),  # a service that comes back is found within seconds, not gRPC's default of two minutes
    ("grpc.use_local_subchannel_pool", 1),  # closing a channel closes its connections; two channels share no back-off
)


def create_channel(target: str, *, max_message_bytes: int) -> grpc.aio.Channel:
    """A plaintext channel; calls on it carry trace and request id. Connects on the first call; state each call's `timeout`.

    Args:
        target: `host:port`, or any gRPC name such as `dns:///indexer:50051`.
        max_message_bytes: limit of one message, both ways; the server's should be the same.
    """
    limits = (("grpc.max_receive_message_length", max_message_bytes), ("grpc.max_send_message_length", max_message_bytes))
    return grpc.aio.insecure_channel(target, options=(*_OPTIONS, *limits), interceptors=client_interceptors())
