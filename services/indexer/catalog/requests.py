"""SQL of idempotency: the answers of writes that carried a request id."""

from __future__ import annotations

import apsw

from services.indexer.catalog import clock
from services.indexer.catalog.rows import first
from shared.errors import InvalidArgumentError


def recall(connection: apsw.Connection, scope: str, request_id: str, fingerprint: bytes) -> bytes | None:
    """The answer that was given to this request, if it was seen before.

    Raises InvalidArgumentError if the id was used for another request.
    """
    row = first(connection, "SELECT fingerprint, response FROM request WHERE scope = ? AND request_id = ?", (scope, request_id))
    if row is None:
        return None
    if row[0] != fingerprint:
        raise InvalidArgumentError.of("request_id", "was used for another request within 24 hours: make a new one for each write")
    return bytes(row[1])


def remember(connection: apsw.Connection, scope: str, request_id: str, fingerprint: bytes, response: bytes) -> bytes:
    """Keeps the answer, in the same transaction as the write, unless there is one; returns the one that is kept.

    Raises InvalidArgumentError if the id was used for another request.
    """
    kept = recall(connection, scope, request_id, fingerprint)
    if kept is not None:
        return kept
    connection.execute(
        "INSERT INTO request (scope, request_id, fingerprint, response, create_time) VALUES (?, ?, ?, ?, ?)",
        (scope, request_id, fingerprint, response, clock.now()),
    )
    return response
