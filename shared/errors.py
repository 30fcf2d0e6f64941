"""The error tree. `shared/rpc/status.py` has the one table that maps it to gRPC codes.

    KnowledgeBeastError
    ├── InvalidArgumentError          the request is wrong; carries field violations
    ├── NotFoundError
    ├── AlreadyExistsError
    ├── ConflictError                 a stale etag: read again and retry
    ├── FailedPreconditionError       right request, wrong state
    ├── ResourceExhaustedError        over a limit; carries when to retry
    ├── DeadlineExceededError
    ├── UnavailableError              a component is down; carries which, and when to retry
    │   └── VectorStoreUnavailableError
    │       └── CircuitOpenError      not even tried
    ├── VectorStoreError              the vector store refuses this request for good
    │   └── CollectionNotFoundError
    ├── CorruptionError               stored data is damaged
    └── ConfigurationError            the service cannot start like this

`message` is for the client: what is wrong and what to do, no internals. The cause (`raise … from error`) is for the log.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong: its path, and what is allowed."""

    field: str
    description: str


class KnowledgeBeastError(Exception):
    """Base of every error that is raised on purpose.

    `reason` is a stable upper-case name for programs; a subclass has a default, which a call may narrow.
    """

    reason = "INTERNAL"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if reason is not None:
            self.reason = reason


class InvalidArgumentError(KnowledgeBeastError):
    """The request is wrong, whatever the state of the system."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = (), *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.violations = violations

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgumentError:
        """An error about one field."""
        return cls(f"{field}: {description}", (FieldViolation(field, description),))


class NotFoundError(KnowledgeBeastError):
    """What the request names is not there."""

    reason = "NOT_FOUND"


class AlreadyExistsError(KnowledgeBeastError):
    """What the request would create is there already."""

    reason = "ALREADY_EXISTS"


class ConflictError(KnowledgeBeastError):
    """Somebody else changed it meanwhile: read again, then retry."""

    reason = "ETAG_MISMATCH"


class FailedPreconditionError(KnowledgeBeastError):
    """The request is right, but not in this state; retrying alone does not help."""

    reason = "FAILED_PRECONDITION"


class ResourceExhaustedError(KnowledgeBeastError):
    """Over a limit. `retry_after` in seconds."""

    reason = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class DeadlineExceededError(KnowledgeBeastError):
    """The time that the caller gave was not enough."""

    reason = "DEADLINE_EXCEEDED"


class UnavailableError(KnowledgeBeastError):
    """A component is down. `retry_after` in seconds."""

    reason = "UNAVAILABLE"

    def __init__(self, message: str, *, component: str, retry_after: float = 1.0, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.component = component
        self.retry_after = retry_after


class VectorStoreUnavailableError(UnavailableError):
    """The vector store did not answer, or answered that it cannot now: worth another try."""

    reason = "VECTOR_STORE_UNAVAILABLE"

    def __init__(self, message: str, *, retry_after: float = 1.0, reason: str | None = None) -> None:
        super().__init__(message, component="chromadb", retry_after=retry_after, reason=reason)


class CircuitOpenError(VectorStoreUnavailableError):
    """The vector store failed so often that it is left alone until `retry_after` seconds have passed."""

    reason = "CIRCUIT_OPEN"


class VectorStoreError(KnowledgeBeastError):
    """The vector store refuses this request and would refuse it again."""

    reason = "VECTOR_STORE_REFUSED"


class CollectionNotFoundError(VectorStoreError):
    """The vector store does not have the collection."""

    reason = "COLLECTION_NOT_FOUND"


class CorruptionError(KnowledgeBeastError):
    """Stored data is damaged; the message says how to restore it."""

    reason = "DATA_LOSS"


class ConfigurationError(KnowledgeBeastError):
    """The service cannot start with these settings; the message says which to change."""

    reason = "CONFIGURATION"
