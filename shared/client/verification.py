"""Calls that compare the query service's copy with the catalog."""

from __future__ import annotations

from shared.client.endpoint import Endpoint
from shared.gen.knowledgebeast.query.v1 import replica_pb2, replica_pb2_grpc
from shared.rpc.verification import decode
from shared.verification import Difference, DifferenceKind, Verification

__all__ = ["Difference", "DifferenceKind", "ReplicaCalls", "Verification", "decode"]


class ReplicaCalls:
    """Calls to ReplicaService. `timeout` is in seconds; None takes the client's."""

    _query: Endpoint

    async def verify_replica(self, project_id: str, *, repair: bool = False, timeout: float | None = None) -> Verification:
        """Compares the query service's copy of a project with the catalog, and has it mended if that is wanted.

        The comparison waits, within the timeout, for a moment at which the copy has all changes. Raises NotFoundError, UnavailableError when the
        query service or its indexer does not answer, and DeadlineExceededError when the copy did not come to the newest change in time.
        """
        stub = replica_pb2_grpc.ReplicaServiceStub(self._query.channel)
        request = replica_pb2.VerifyReplicaRequest(project_id=project_id, repair=repair)
        response = await self._query.call(stub.VerifyReplica, request, timeout)
        return decode(response.verification, replica=response.replica)
