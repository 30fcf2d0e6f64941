"""The one table from what goes wrong in a call to ChromaDB to the error tree.

    connection refused, lost or reset, DNS, TLS, time out     VectorStoreUnavailableError
    an answer that is cut off, is no JSON, or has other fields VectorStoreUnavailableError
    408, 425, 429, 5xx                                        VectorStoreUnavailableError, with the server's Retry-After
    404 about a collection                                    CollectionNotFoundError
    every other status that is not 2xx                        VectorStoreError

`message` says nothing of the inside. What did happen, with the operation, is the error's `__cause__`, a `CallFailedError`, for the log.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeVar

from shared.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnavailableError

E = TypeVar("E", bound=Exception)

_TEMPORARY = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_EXCERPT = 300  # characters of an answer's body that are kept for the log
_RETRY_AFTER_DEFAULT = 1.0
_RETRY_AFTER_MAX = 60.0


class CallFailedError(Exception):
    """What a call to ChromaDB met, for the log. Only ever the cause of an error of `shared.errors`."""

    def __init__(self, operation: str, what: str) -> None:
        super().__init__(f"chromadb.{operation}: {what}")


def unreachable(operation: str, error: BaseException) -> VectorStoreUnavailableError:
    """No whole answer came: the connection failed or the time was over."""
    cause = CallFailedError(operation, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    cause.__cause__ = error
    return _caused(VectorStoreUnavailableError("The vector store does not answer."), cause)


def malformed(operation: str, error: Exception) -> VectorStoreUnavailableError:
    """The answer is not what the API promises: torn, or from something that is not ChromaDB."""
    cause = CallFailedError(operation, f"malformed answer: {type(error).__name__}: {error}")
    cause.__cause__ = error
    return _caused(VectorStoreUnavailableError("The vector store's answer cannot be read."), cause)


def refused(
    operation: str, status: int, body: bytes, *, about_collection: bool, retry_after: str | None
) -> VectorStoreUnavailableError | VectorStoreError:
    """The answer has a status that is not 2xx. `retry_after` is the header of that name."""
    cause = CallFailedError(operation, f"HTTP {status}: {body.decode(errors='replace')[:_EXCERPT]}")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TEMPORARY:
        return _caused(VectorStoreUnavailableError("The vector store cannot answer now.", retry_after=_seconds(retry_after)), cause)
    if status == HTTPStatus.NOT_FOUND and about_collection:
        return _caused(CollectionNotFoundError("The vector store does not have the collection."), cause)
    return _caused(VectorStoreError("The vector store refuses the request."), cause)


def _seconds(retry_after: str | None) -> float:
    """The header in seconds, at most a minute. Its other form, a date, counts as absent."""
    if retry_after is None or not (retry_after.isascii() and retry_after.isdigit()):
        return _RETRY_AFTER_DEFAULT
    return min(float(retry_after), _RETRY_AFTER_MAX)


def _caused(error: E, cause: Exception) -> E:
    error.__cause__ = cause
    return error
