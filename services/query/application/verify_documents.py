"""Which documents of a copy are not those of the catalog.

Both sides tell what the documents of a range of sequences come to. Ranges that differ are told document by document. A comparison counts only if
the copy was at the catalog's head: its side is read first, and the catalog's head must still be where the copy was. So each range may be compared
at a moment of its own: what changes in between has a sequence behind all that was compared, and comes in its turn.
"""

from __future__ import annotations

import asyncio

from services.query.ports import CatalogDigests, ProjectCopy
from shared.digest import DEFAULT_PARTS, MAX_NAMED_SEQUENCES, MAX_PARTS, DocumentDigest, ProjectDigest, SequenceRange
from shared.domain import Cursor, DocumentId, ProjectId, SequenceNumber
from shared.errors import DeadlineExceededError
from shared.resilience.backoff import Backoff
from shared.resilience.deadline import Deadline

_BACKOFF = Backoff(initial=0.05, maximum=1.0)


class DocumentComparison:
    """One comparison of one project; `run` it once, then read the attributes.

    Attributes:
        epoch: the incarnation of both sides.
        sequence: the head as of which the last range was compared.
        missing: ids of documents that the copy lacks.
        extra: ids of documents that it alone has.
        different: ids of documents that it has in another version, or with other chunks.
    """

    def __init__(self, copy: ProjectCopy, catalog: CatalogDigests, project_id: ProjectId, deadline: Deadline) -> None:
        self.epoch = ""
        self.sequence = SequenceNumber(0)
        self.missing: set[str] = set()
        self.extra: set[str] = set()
        self.different: set[str] = set()
        self._copy = copy
        self._catalog = catalog
        self._project_id = project_id
        self._deadline = deadline
        self._ours: dict[DocumentId, DocumentDigest] = {}
        self._theirs: dict[DocumentId, DocumentDigest] = {}

    async def run(self) -> None:
        """Compares everything. Raises NotFoundError, UnavailableError, and DeadlineExceededError when there was no moment to compare at."""
        start = SequenceNumber(0)
        while True:
            covered = await self._compare(start, None)
            start = covered.end
            if start >= self.sequence:
                break
        self.missing = set(self._theirs.keys() - self._ours.keys())
        self.extra = set(self._ours.keys() - self._theirs.keys())
        self.different = {each for each in self._ours.keys() & self._theirs.keys() if self._ours[each] != self._theirs[each]}

    async def _compare(self, start: SequenceNumber, end: SequenceNumber | None) -> SequenceRange:
        """Compares a range (to the head without an end), and what differs in it in smaller ones. Returns what was covered: a beginning of it."""
        ours, theirs = await self._moment(start, end)
        covered = start
        for mine, yours in zip(ours.parts, theirs.parts, strict=False):  # the side with more chunks may have come less far
            covered = mine.range.end
            if mine != yours:
                await self._narrow(mine.range)
        return SequenceRange(start, covered)

    async def _narrow(self, differing: SequenceRange) -> None:
        """Finds the documents that make a range differ."""
        start = differing.start
        while start < differing.end:
            if differing.end - start <= MAX_NAMED_SEQUENCES:
                start = await self._name(start, differing.end)
            else:
                start = (await self._compare(start, differing.end)).end

    async def _name(self, start: SequenceNumber, end: SequenceNumber) -> SequenceNumber:
        """Notes the documents of those parts of a range that differ; how far that came."""
        ours, theirs = await self._moment(start, end, named=True)
        for mine, yours in zip(ours.parts, theirs.parts, strict=False):
            start = mine.range.end
            if mine != yours:
                for found, digest in ((self._ours, ours), (self._theirs, theirs)):
                    found.update((each.id, each) for each in digest.documents if mine.range.start < each.sequence <= mine.range.end)
        return start

    async def _moment(self, start: SequenceNumber, end: SequenceNumber | None, *, named: bool = False) -> tuple[ProjectDigest, ProjectDigest]:
        """What a range comes to on both sides, at a moment at which the copy has all changes."""
        failures = 0
        while True:
            cursor = self._copy.project(self._project_id).documents_cursor
            wanted = SequenceRange(start, end or max(start, SequenceNumber(0) if cursor is None else cursor.sequence))
            parts = min(MAX_PARTS, max(DEFAULT_PARTS, -(-wanted.width // MAX_NAMED_SEQUENCES)))
            ours = await asyncio.to_thread(self._copy.digest, self._project_id, wanted, parts, named=named)
            theirs = await self._catalog.digest(self._project_id, wanted, parts, named=named, deadline=self._deadline)
            if (ours.epoch, ours.head) == (theirs.epoch, theirs.head) and (end is not None or wanted.end == theirs.head):
                self.epoch, self.sequence = theirs.epoch, theirs.head
                return ours, theirs
            failures += 1
            if not await self._copy.wait_for_documents(self._project_id, Cursor(theirs.epoch, theirs.head), self._deadline):
                raise DeadlineExceededError("the replica's copy did not come to the newest change in time")
            await asyncio.sleep(_BACKOFF.seconds(failures))
