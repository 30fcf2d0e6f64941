"""Opaque tokens that clients hand back: positions in a list, bound to the request they belong to."""

from __future__ import annotations

import base64
import binascii
import hashlib

import orjson

from shared.errors import InvalidArgumentError


def page_token(after: str, *bound_to: object) -> str:
    """A token for the page after `after`, usable only with the same `bound_to`."""
    return base64.urlsafe_b64encode(orjson.dumps([_digest(bound_to), after])).decode().rstrip("=")


def page_start(token: str, *bound_to: object) -> str:
    """Where the page of a token begins; the beginning without a token. Raises InvalidArgumentError."""
    if not token:
        return ""
    try:
        digest, after = orjson.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidArgumentError.of("page_token", "is not a token of this service: send next_page_token as it came") from error
    if digest != _digest(bound_to) or not isinstance(after, str):
        raise InvalidArgumentError.of("page_token", "belongs to another request: send the same project and filter as for the first page")
    return after


def _digest(values: tuple[object, ...]) -> str:
    return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()
