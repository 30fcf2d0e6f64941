"""The search canary's project, written through the indexer's API as anybody's is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from shared import consistency
from shared.client import KnowledgeBeast
from shared.domain import Cursor, DocumentId, DocumentInput, ProjectId
from shared.errors import AlreadyExistsError, DeadlineExceededError, FailedPreconditionError
from shared.resilience.deadline import Deadline

_BATCH = 1_000  # documents of others that are deleted at a time: the most that a call takes
# What tells the canary's project, in which everything else is deleted, from one of a user's with the same name.
_LABELS: Final = {"belongs-to": "search-canary"}


class IndexerCanaryProject:
    """Satisfies `services.query.ports.CanaryProject`.

    Args:
        kb: a client of the indexer.
        project_id: of the reserved project.
    """

    def __init__(self, kb: KnowledgeBeast, project_id: ProjectId) -> None:
        self._kb = kb
        self._project_id = project_id

    async def restore(self, documents: Sequence[DocumentInput], deadline: Deadline) -> Cursor:
        """See the port."""
        await self._make_project(deadline)
        written = await self._kb.upsert(self._project_id, documents, timeout=_left(deadline))
        refused = [result for result in written.results if result.error is not None]
        if refused:
            raise FailedPreconditionError(f"the indexer refused {len(refused)} passages of the canary", reason="CANARY_REFUSED")
        token = await self._delete_others({document.id for document in documents}, deadline) or written.consistency_token
        return consistency.decode(token, self._project_id)

    async def _make_project(self, deadline: Deadline) -> None:
        try:
            await self._kb.create_project(
                self._project_id,
                display_name="Search canary",
                description="Belongs to the query service, which keeps it as it must be. What others write here is deleted.",
                labels=_LABELS,
                timeout=_left(deadline),
            )
        except AlreadyExistsError:
            project = await self._kb.get_project(self._project_id, timeout=_left(deadline))
            if not _LABELS.items() <= project.labels.items():
                raise FailedPreconditionError(
                    f"project {self._project_id} is not the canary's, and is left as it is: name a project in KB_CANARY_PROJECT that does not exist",
                    reason="CANARY_PROJECT_TAKEN",
                ) from None

    async def _delete_others(self, own: set[DocumentId], deadline: Deadline) -> str:
        """Deletes what is not the canary's; the last deletion's token, empty if there was nothing."""
        token = ""
        others: list[DocumentId] = []
        async for document in self._kb.list_documents(self._project_id, page_size=_BATCH, timeout=_left(deadline)):
            if document.id not in own:
                others.append(document.id)
            if len(others) == _BATCH:
                token = (await self._kb.delete_documents(self._project_id, others, timeout=_left(deadline))).consistency_token
                others.clear()
        if others:
            token = (await self._kb.delete_documents(self._project_id, others, timeout=_left(deadline))).consistency_token
        return token


def _left(deadline: Deadline) -> float:
    """Seconds for the next call. Raises DeadlineExceededError when there are none."""
    if deadline.expired:
        raise DeadlineExceededError("the canary's project could not be put right in time; the next run goes on with it")
    return deadline.remaining()
