"""What can go wrong between the feed and the replica."""

from __future__ import annotations

from shared.errors import KnowledgeBeastError


class FeedGapError(KnowledgeBeastError):
    """An event does not continue the replica's copy: another epoch, another position, or vectors of another dimension.

    Nothing of the event was applied. Watching again from the replica's cursor heals it.
    """

    reason = "FEED_GAP"
