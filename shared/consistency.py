"""Consistency tokens: proof of a write, handed to a search that must see it.

`kb1.<base64url of JSON [project id, epoch, sequence]>`. Opaque to clients, not secret: a token gives no access by itself.
"""

from __future__ import annotations

import base64
import binascii

import orjson

from shared.domain import Cursor, ProjectId, SequenceNumber
from shared.errors import FailedPreconditionError, InvalidArgumentError

_PREFIX = "kb1."
_LONGEST = 512
_FIELD = "consistency.at_least_as_fresh"


def encode(project_id: ProjectId, cursor: Cursor) -> str:
    """The token of a write."""
    payload = orjson.dumps([project_id, cursor.epoch, cursor.sequence])
    return _PREFIX + base64.urlsafe_b64encode(payload).decode().rstrip("=")


def decode(token: str, project_id: ProjectId) -> Cursor:
    """What the token proves. Raises InvalidArgumentError if it is not a token, or one of another project."""
    match _payload(token):
        case [str(owner), str(epoch), int(sequence)] if sequence >= 0:
            if owner != project_id:
                raise InvalidArgumentError.of(_FIELD, "is a token of another project")
            return Cursor(epoch, SequenceNumber(sequence))
    raise InvalidArgumentError.of(_FIELD, "is not a consistency token: send it as a write returned it")


def _payload(token: str) -> object:
    """What stands in the token; None if it is none."""
    if len(token) > _LONGEST or not token.startswith(_PREFIX):
        return None
    payload = token.removeprefix(_PREFIX)
    try:
        return orjson.loads(base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None


def require_epoch(cursor: Cursor, epoch: str) -> None:
    """Raises FailedPreconditionError if the token is of an earlier incarnation of the project."""
    if cursor.epoch != epoch:
        raise FailedPreconditionError(
            "the consistency token was issued before the project was restored or created again: write again, or search without it",
            reason="CONSISTENCY_TOKEN_EXPIRED",
        )
