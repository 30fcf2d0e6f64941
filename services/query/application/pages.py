"""Page tokens: where a page ended, what was shown so far, and of which search.

`kp1.<base64url of JSON [fingerprint of the search, hits shown, digest of the hits shown]>`. Nothing is kept between pages: the next page
ranks again, and is given out only if the hits before it are those that were shown, so that none is repeated and none is skipped.
The digest does not depend on the order of the hits.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b

import orjson

from services.query.application.query import Query
from shared.domain import ChunkId
from shared.errors import ConflictError, InvalidArgumentError

_PREFIX = "kp1."
_LONGEST = 200
_MODULUS = 1 << 64


@dataclass(frozen=True, slots=True)
class Shown:
    """How many hits the pages before have shown, and their digest."""

    count: int = 0
    digest: int = 0

    def and_then(self, hits: Iterable[ChunkId]) -> Shown:
        """With more hits shown."""
        count, digest = self.count, self.digest
        for chunk_id in hits:
            count += 1
            digest = (digest + int.from_bytes(blake2b(chunk_id.encode(), digest_size=8).digest())) % _MODULUS
        return Shown(count, digest)

    def require(self, before: Iterable[ChunkId]) -> None:
        """Raises ConflictError (reason `PAGE_TOKEN_STALE`) unless these are the hits that were shown."""
        if Shown().and_then(before) != self:
            raise ConflictError(
                "the project or what answers for it has changed since the page before, so that hits would be repeated or skipped: search again "
                "without page_token",
                reason="PAGE_TOKEN_STALE",
            )


def _fingerprint(query: Query) -> str:
    """The same for all pages of a search. What a search must see, and whether it may be degraded, may differ from page to page."""
    same = replace(query, page_token="", fresh_as=None, allow_degraded=True)
    return blake2b(repr(same).encode(), digest_size=8).hexdigest()


def encode(query: Query, shown: Shown) -> str:
    """The token that asks for what comes after the hits shown."""
    payload = orjson.dumps([_fingerprint(query), shown.count, f"{shown.digest:x}"])
    return _PREFIX + base64.urlsafe_b64encode(payload).decode().rstrip("=")


def decode(query: Query) -> Shown:
    """What the query's token tells; nothing shown if it has none. Raises InvalidArgumentError for a token of another search."""
    if not query.page_token:
        return Shown()
    match _payload(query.page_token):
        case [str(fingerprint), int(count), str(digest)] if count > 0:
            if fingerprint != _fingerprint(query):
                raise InvalidArgumentError.of("page_token", "is a token of another search: all else must be as it was for the page before")
            return Shown(count, int(digest, 16))
    raise InvalidArgumentError.of("page_token", "is not a page token: send it as next_page_token was received")


def _payload(token: str) -> object:
    """What stands in the token; None if it is none."""
    if len(token) > _LONGEST or not token.startswith(_PREFIX):
        return None
    payload = token.removeprefix(_PREFIX)
    try:
        match orjson.loads(base64.b64decode(payload + "=" * (-len(payload) % 4), altchars=b"-_", validate=True)):
            case [str(fingerprint), int(count), str(digest)] if digest and set(digest) <= set("0123456789abcdef"):
                return [fingerprint, count, digest]
    except (binascii.Error, ValueError):
        pass
    return None
