"""Verifications as messages, both ways. Pure."""

from __future__ import annotations

from shared.domain import ProjectId, SequenceNumber
from shared.gen.knowledgebeast.common.v1 import verification_pb2
from shared.verification import Difference, DifferenceKind, Verification

_Message = verification_pb2.Difference
_NUMBERS = {
    DifferenceKind.COLLECTION_MISSING: _Message.KIND_COLLECTION_MISSING,
    DifferenceKind.VECTORS_MISSING: _Message.KIND_VECTORS_MISSING,
    DifferenceKind.VECTORS_EXTRA: _Message.KIND_VECTORS_EXTRA,
    DifferenceKind.DOCUMENTS_MISSING: _Message.KIND_DOCUMENTS_MISSING,
    DifferenceKind.DOCUMENTS_EXTRA: _Message.KIND_DOCUMENTS_EXTRA,
    DifferenceKind.DOCUMENTS_DIFFERENT: _Message.KIND_DOCUMENTS_DIFFERENT,
    DifferenceKind.KEYWORD_INDEX: _Message.KIND_KEYWORD_INDEX,
    DifferenceKind.REPLICA_VECTORS: _Message.KIND_REPLICA_VECTORS,
    DifferenceKind.UNKNOWN: _Message.KIND_UNSPECIFIED,
}
_KINDS = {number: kind for kind, number in _NUMBERS.items()}


def encode(value: Verification) -> verification_pb2.Verification:
    """The message of a verification."""
    return verification_pb2.Verification(
        project_id=value.project_id,
        sequence=value.sequence,
        compared_count=value.compared,
        differences=[_Message(kind=_NUMBERS[each.kind], count=each.count, examples=each.examples) for each in value.differences],
        repaired=value.repaired,
        repair_message=value.repair_message,
    )


def decode(message: verification_pb2.Verification, *, replica: str = "") -> Verification:
    """The verification of a message. A kind that is not known here is kept as UNKNOWN."""
    return Verification(
        project_id=ProjectId(message.project_id),
        sequence=SequenceNumber(message.sequence),
        compared=message.compared_count,
        differences=tuple(
            Difference(_KINDS.get(each.kind, DifferenceKind.UNKNOWN), each.count, tuple(each.examples)) for each in message.differences
        ),
        repaired=message.repaired,
        repair_message=message.repair_message,
        replica=replica,
    )
