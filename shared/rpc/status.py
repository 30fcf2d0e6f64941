"""THE table from errors to gRPC status, and the way back.

A status carries `google.rpc.ErrorInfo` (reason, domain `knowledgebeast`), and `BadRequest` or `RetryInfo` where they apply
(https://google.aip.dev/193). The public message goes to the client, the cause never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped] # its .pyi files are not marked as typed
from grpc_status import rpc_status

from shared.errors import (
    AlreadyExistsError,
    CircuitOpenError,
    CollectionNotFoundError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InvalidArgumentError,
    KnowledgeBeastError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    VectorStoreError,
    VectorStoreUnavailableError,
)
from shared.gen.knowledgebeast.common.v1 import types_pb2

DOMAIN: Final = "knowledgebeast"

# An error has the code of the nearest class above it.
CODES: Final[Mapping[type[KnowledgeBeastError], grpc.StatusCode]] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    ConflictError: grpc.StatusCode.ABORTED,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    VectorStoreError: grpc.StatusCode.INTERNAL,
    CorruptionError: grpc.StatusCode.DATA_LOSS,
    ConfigurationError: grpc.StatusCode.INTERNAL,
    KnowledgeBeastError: grpc.StatusCode.INTERNAL,
}

# The server's own faults, by which error rates and log levels go.
SERVER_FAULTS: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

# gRPC sends status details as a header, and a client refuses headers above 8 KB in all (`grpc.max_metadata_size`). The message goes twice, as
# `grpc-message` and inside the details; base64 adds a third, percent-encoding of non-ASCII text up to 200 %.
_MAX_MESSAGE_BYTES: Final = 600
_MAX_VIOLATION_BYTES: Final = 2000
_MAX_ITEM_VIOLATIONS: Final = 100

# gRPC's retries (channel.py) are over after about that long. The header is of https://github.com/grpc/proposal/blob/master/A6-client-retries.md.
_RETRIES_LAST_SECONDS: Final = 1.5
_NO_RETRY: Final = (("grpc-retry-pushback-ms", "-1"),)

# The way back: by the reason where classes share a code, else by the code.
_BY_REASON: Final[Mapping[str, type[KnowledgeBeastError]]] = {
    kind.reason: kind for kind in (CircuitOpenError, VectorStoreUnavailableError, CollectionNotFoundError, VectorStoreError, ConfigurationError)
}
_BY_CODE: Final[Mapping[grpc.StatusCode, type[KnowledgeBeastError]]] = {
    code: kind for kind, code in CODES.items() if code is not grpc.StatusCode.INTERNAL
}
_BY_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A status in the form that `context.abort` takes."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def code_of(error: KnowledgeBeastError) -> grpc.StatusCode:
    """The code of an error, by the table."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def to_status(error: BaseException, request_id: str = "") -> RpcStatus:
    """The status of any error. Of one that is not in our tree, nothing but the request id is told."""
    if not isinstance(error, KnowledgeBeastError):
        error = KnowledgeBeastError(f"internal error; request id {request_id}")
    code, message = code_of(error), _cut(error.message, _MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=code.value[0], message=message, details=[_pack(detail) for detail in _details(error)])
    return RpcStatus(code, message, (*(rpc_status.to_status(status).trailing_metadata or ()), *_pushback(error)))


def item_error(error: BaseException, request_id: str = "") -> types_pb2.ItemError:
    """The error of one item of a batch; like `to_status`, it tells nothing of an error outside our tree."""
    if not isinstance(error, KnowledgeBeastError):
        error = KnowledgeBeastError(f"internal error; request id {request_id}")
    violations = error.violations[:_MAX_ITEM_VIOLATIONS] if isinstance(error, InvalidArgumentError) else ()
    return types_pb2.ItemError(
        code=code_of(error).value[0],
        reason=error.reason,
        message=error.message,
        violations=[types_pb2.FieldViolation(field=each.field, description=each.description) for each in violations],
    )


def from_item_error(error: types_pb2.ItemError) -> KnowledgeBeastError:
    """The error that `item_error` was made from, as far as it was told."""
    violations = tuple(FieldViolation(each.field, each.description) for each in error.violations)
    return _build(_BY_NUMBER.get(error.code, grpc.StatusCode.UNKNOWN), error.reason, error.message, violations, 1.0, "server")


def from_rpc_error(error: grpc.aio.AioRpcError, component: str = "server") -> KnowledgeBeastError:
    """What a client raises for a failed call.

    Args:
        error: the failure, with or without our details: a server that cannot be reached sends none.
        component: what to name when the failure does not name a component itself, for example `indexer`.
    """
    info, violations, retry_after = error_details_pb2.ErrorInfo(), tuple[FieldViolation, ...](), 1.0
    for detail in _received(error):
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = tuple(FieldViolation(each.field, each.description) for each in bad.field_violations)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    reason = info.reason if info.domain == DOMAIN else ""
    return _build(error.code(), reason, error.details() or error.code().name, violations, retry_after, info.metadata.get("component", component))


def _pushback(error: KnowledgeBeastError) -> tuple[tuple[str, str], ...]:
    """Tells gRPC's own retries (channel.py) to leave it when they could only fail: the caller hears at once, with the time to retry after."""
    return _NO_RETRY if isinstance(error, UnavailableError) and error.retry_after > _RETRIES_LAST_SECONDS else ()


def _details(error: KnowledgeBeastError) -> list[Message]:
    metadata = {"component": error.component} if isinstance(error, UnavailableError) else {}
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if isinstance(error, InvalidArgumentError) and error.violations:
        details.append(_bad_request(error.violations))
    if isinstance(error, UnavailableError | ResourceExhaustedError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return details


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    """As many violations as fit; the last one then says how many there are."""
    request, size = error_details_pb2.BadRequest(), 0
    for violation in violations:
        field, description = _cut(violation.field, 200), _cut(violation.description, 300)
        size += len(field.encode()) + len(description.encode())
        if size > _MAX_VIOLATION_BYTES:
            request.field_violations.add(
                field="…", description=f"{len(violations)} violations in all; the first {len(request.field_violations)} are listed"
            )
            break
        request.field_violations.add(field=field, description=description)
    return request


def _cut(text: str, size: int) -> str:
    """The beginning of a text that fits into `size` bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= size else encoded[: size - 3].decode(errors="ignore") + "…"


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def _received(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    """The details of a failed call; none when they are missing or contradict the status (a proxy may have replaced it)."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type] # AioRpcError has the three methods that it calls
    except ValueError:
        return []
    return list(status.details) if status is not None else []


def _build(
    code: grpc.StatusCode, reason: str, message: str, violations: tuple[FieldViolation, ...], retry_after: float, component: str
) -> KnowledgeBeastError:
    """The error of our tree for a code and a reason."""
    if code is grpc.StatusCode.CANCELLED:
        # We did not cancel (that raises CancelledError), so the server did: it is going down.
        code = grpc.StatusCode.UNAVAILABLE
    kind, stated = _BY_REASON.get(reason) or _BY_CODE.get(code, KnowledgeBeastError), reason or None
    if issubclass(kind, InvalidArgumentError):
        return kind(message, violations, reason=stated)
    if issubclass(kind, VectorStoreUnavailableError | ResourceExhaustedError):
        return kind(message, retry_after=retry_after, reason=stated)
    if issubclass(kind, UnavailableError):
        return kind(message, component=component, retry_after=retry_after, reason=stated)
    return kind(message, reason=stated or (code.name if kind is KnowledgeBeastError else None))
