"""Client channels with the settings that fit our servers."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

from shared.rpc.propagation import client_interceptors

_OPTIONS: Final = (
    ("grpc.lb_policy_name", "round_robin"),  # a name with several addresses (headless Service) is spread over all of them
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
