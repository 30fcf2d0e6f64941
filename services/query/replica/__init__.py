"""The query service's local copy of the catalog, and what keeps it up to date."""

from services.query.replica.errors import FeedGapError
from services.query.replica.model import Pks, ReplicaCounts, ReplicaHit, ReplicaProject, ScoredPk
from services.query.replica.replica import Replica

__all__ = ["FeedGapError", "Pks", "Replica", "ReplicaCounts", "ReplicaHit", "ReplicaProject", "ScoredPk"]
