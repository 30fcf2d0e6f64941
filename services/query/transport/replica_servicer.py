"""ReplicaService."""

from __future__ import annotations

from services.query.application.verify import VerifyReplica
from services.query.transport import validate
from shared.gen.knowledgebeast.query.v1 import replica_pb2 as pb
from shared.gen.knowledgebeast.query.v1 import replica_pb2_grpc
from shared.resilience.deadline import Deadline
from shared.rpc import verification
from shared.rpc.access_log import bind_project
from shared.rpc.call import Context

# Seconds: for a caller without a deadline, for any call, and kept back to send the answer in.
_DEFAULT_TIME = 60.0
_LONGEST_TIME = 600.0
_MARGIN = 0.05


class ReplicaServicer(replica_pb2_grpc.ReplicaServiceServicer):
    """What an operator may ask of this replica."""

    def __init__(self, verify: VerifyReplica) -> None:
        self._verify = verify

    async def VerifyReplica(self, request: pb.VerifyReplicaRequest, context: Context) -> pb.VerifyReplicaResponse:
        """See the proto."""
        bind_project(request.project_id)
        project_id = validate.project_id(request.project_id)
        deadline = Deadline.from_grpc(context, default=_DEFAULT_TIME, cap=_LONGEST_TIME, margin=_MARGIN)
        found = await self._verify.run(project_id, deadline, repair=request.repair)
        return pb.VerifyReplicaResponse(replica=found.replica, verification=verification.encode(found))
