"""What is answered when vectors cannot be searched: the last good answer to the same question if it still stands, else keyword hits, else nothing.

The first step of the ladder, the replica's own vectors, is the vector leg's own (`vector_leg.py`): where it can be taken, the leg has run.
docs/adr/0014-ladder-of-degradation.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from services.query.application.degradation import RETRY_AFTER, Degradations
from services.query.application.last_answers import LastAnswer, LastAnswers
from services.query.application.offload import offload
from services.query.application.results import Question
from services.query.ports import SearchIndex
from services.query.replica.model import ReplicaHit
from shared.domain import Chunk, ChunkId, Cursor, Metadata, ProjectId
from shared.errors import UnavailableError
from shared.observability import metrics
from shared.search import Degradation, DegradationReason, Hit, SearchAnswer, SearchMode

NO_FALLBACK = "NO_FALLBACK"  # reason of the error when no step is left
# Hits up to which an answer is checked where it is asked for, rather than in a thread.
_FEW_HITS = 20


@dataclass(frozen=True, slots=True)
class Fallbacks:
    """Which steps may stand in for a vector store that cannot be asked, in this order.

    Attributes:
        replica_vectors: the replica's own vectors.
        last_answer: the last good answer to the same question.
        keyword: keyword hits alone, also when the query cannot be embedded.
    """

    replica_vectors: bool = True
    last_answer: bool = True
    keyword: bool = True


class Ladder:
    """Keeps good answers, and says what stands in for a vector leg that could not be run."""

    def __init__(self, index: SearchIndex, steps: Fallbacks, last_answers: LastAnswers) -> None:
        self.steps = steps
        self._index = index
        self._last_answers = last_answers

    def keep(self, question: Question, answer: SearchAnswer) -> None:
        """Keeps an answer that is whole, if keyword hits would be worse: if vectors were searched, there were any, and something was found."""
        by_meaning = answer.mode is not SearchMode.KEYWORD and answer.freshness.vector_sequence > 0
        if self.steps.last_answer and by_meaning and answer.hits and not answer.degraded:
            self._last_answers.put(question, answer)

    def used(self, question: Question) -> None:
        """Its answer was given again: of those that are kept it shall not be the next to go."""
        self._last_answers.get(question)

    async def descend(
        self, missing: Degradation, project_id: ProjectId, question: Question, wanted: Cursor | None, degradations: Degradations, *, keyword: str
    ) -> LastAnswer | None:
        """The last good answer, or None if keyword hits are to be the answer; notes which.

        Args:
            missing: why vectors could not be searched.
            project_id: the project.
            question: what is asked.
            wanted: the write that the answer must show, if any.
            degradations: where to note it.
            keyword: what keyword hits are called in the message.

        Raises UnavailableError (reason `NO_FALLBACK`) if no step is left.
        """
        # A query that cannot be embedded says nothing of the store; its words are as new as the replica.
        if missing.reason is DegradationReason.VECTOR_LEG_MISSING:
            last = await self._recall(project_id, question, wanted)
            if last is not None:
                message = f"{missing.message}; these are the hits of the last whole answer to this search, as they still stand"
                degradations.add(DegradationReason.LAST_GOOD_ANSWER, missing.component, message, since=missing.since)
                return last
        if not self.steps.keyword:
            raise UnavailableError(
                f"{missing.message}, and nothing may stand in for it: retry later",
                component=missing.component,
                retry_after=RETRY_AFTER,
                reason=NO_FALLBACK,
            )
        degradations.add(missing.reason, missing.component, f"{missing.message}; {keyword}", since=missing.since)
        return None

    async def _recall(self, project_id: ProjectId, question: Question, wanted: Cursor | None) -> LastAnswer | None:
        """The last answer, if it was made at or after the write that is wanted and every hit of it is as the replica has it now."""
        last = self._last_answers.get(question)
        if last is None or not _shows(last.answer, wanted):
            return None
        hits = last.answer.hits
        if await offload(self._stands, project_id, last.answer, small=sum(1 + len(hit.more_chunks) for hit in hits) <= _FEW_HITS):
            return last
        self._last_answers.drop(question)
        return None

    def _stands(self, project_id: ProjectId, answer: SearchAnswer) -> bool:
        """Whether all chunks of the answer are current, with the same text, title and metadata. So what a filter asked for holds, too."""
        members = [member for hit in answer.hits for member in _members(hit)]
        keys = self._index.resolve(project_id, [chunk.id for _, chunk in members])
        now = {hit.chunk.id: hit for hit in self._index.hydrate(project_id, list(keys.values()))}
        return all(_same(hit, chunk, now) for hit, chunk in members)


@contextmanager
def refusals_counted() -> Iterator[None]:
    """Counts a search that fails because no step was left."""
    try:
        yield
    except UnavailableError as error:
        if error.reason == NO_FALLBACK:
            metrics.FALLBACK_ANSWERS.labels("refused").inc()
        raise


def _shows(answer: SearchAnswer, wanted: Cursor | None) -> bool:
    """Whether an answer was made when the write could be found, by keyword and by meaning. The epochs are equal: a question is of one epoch."""
    return wanted is None or min(answer.freshness.sequence, answer.freshness.vector_sequence) >= wanted.sequence


def _members(hit: Hit) -> Sequence[tuple[Hit, Chunk]]:
    """The chunks of a hit, each with the hit."""
    return [(hit, hit.chunk), *((hit, other.chunk) for other in hit.more_chunks)]


def _same(hit: Hit, chunk: Chunk, now: Mapping[ChunkId, ReplicaHit]) -> bool:
    """Whether a chunk of a hit is as it was, and so is its document."""
    current = now.get(chunk.id)
    return (
        current is not None
        and current.chunk == chunk
        and current.document_id == hit.document_id
        and current.title == hit.title
        and _form(current.metadata) == _form(hit.metadata)
    )


def _form(metadata: Metadata) -> str:
    """Tells 1 from 1.0 and True, which are equal in Python, while filters tell them apart."""
    return repr(sorted(metadata.items()))
