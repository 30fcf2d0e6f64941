"""From messages to the client's types; `decode_search` has those of searching. Pure.

What a newer service says beyond what is known here is kept as UNKNOWN, never refused.
"""

from __future__ import annotations

from google.protobuf import json_format

from shared.client import types
from shared.domain import DocumentId, SequenceNumber
from shared.errors import FieldViolation
from shared.gen.knowledgebeast.common.v1 import types_pb2
from shared.gen.knowledgebeast.indexer.v1 import indexer_pb2
from shared.gen.knowledgebeast.ops.v1 import status_pb2
from shared.rpc.convert import time_of

_HEALTH: dict[int, types.HealthState] = {
    status_pb2.SERVICE_STATUS_HEALTHY: types.HealthState.HEALTHY,
    status_pb2.SERVICE_STATUS_DEGRADED: types.HealthState.DEGRADED,
    status_pb2.SERVICE_STATUS_UNHEALTHY: types.HealthState.UNHEALTHY,
}


def item_error(message: types_pb2.ItemError) -> types.ItemError:
    """Why one item failed."""
    violations = tuple(FieldViolation(violation.field, violation.description) for violation in message.violations)
    return types.ItemError(message.code, message.reason, message.message, violations)


def document_result(message: indexer_pb2.DocumentResult) -> types.DocumentResult:
    """What became of one document."""
    identity = DocumentId(message.document_id)
    if message.HasField("error"):
        return types.DocumentResult(identity, message.index, error=item_error(message.error))
    receipt = message.written
    return types.DocumentResult(identity, message.index, SequenceNumber(receipt.sequence), receipt.unchanged, receipt.chunk_count)


def _component(message: status_pb2.ComponentStatus) -> types.ComponentState:
    return types.ComponentState(
        name=message.name,
        state=_HEALTH.get(message.status, types.HealthState.UNKNOWN),
        message=message.message,
        check_time=time_of(message.check_time) if message.HasField("check_time") else None,
        details={name: _figure(value) for name, value in json_format.MessageToDict(message.details).items()},
    )


def _figure(value: object) -> object:
    """A Struct knows no integers; a figure that is whole was one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def service_state(message: status_pb2.GetStatusResponse) -> types.ServiceState:
    """What a service says of itself."""
    return types.ServiceState(
        service=message.service,
        version=message.version,
        state=_HEALTH.get(message.status, types.HealthState.UNKNOWN),
        components=tuple(map(_component, message.components)),
        time=time_of(message.time) if message.HasField("time") else None,
        start_time=time_of(message.start_time) if message.HasField("start_time") else None,
    )
