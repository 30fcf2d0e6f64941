"""Reading what the disk may have changed, for those who must go on with all the other documents.

A text that is no UTF-8 any more makes SQLite's driver raise, and whoever reads many documents at once, in the order of their sequences, would never
get past it: no later change would be embedded, or reach a replica. So they read bytes, and take what can be read of them. Whose content is no longer
what was written the scrubber finds and says; who asks for that one document is told (CorruptionError).
"""

from __future__ import annotations

import orjson

from services.indexer.catalog.documents import decode_metadata
from shared.domain import Metadata


def readable(stored: bytes) -> str:
    """A stored text (`CAST(… AS BLOB)`); bytes that are no UTF-8 become U+FFFD, so it may have another length than what was written."""
    return stored.decode(errors="replace")


def readable_metadata(stored: bytes) -> Metadata:
    """Stored metadata; none when it is no JSON object any more."""
    try:
        return decode_metadata(stored)
    except (orjson.JSONDecodeError, AttributeError):  # no JSON, or JSON of another kind
        return {}
