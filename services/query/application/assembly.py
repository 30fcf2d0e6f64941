"""From ranked candidates to a page of hits: group, diversify, cut the page, read texts, mark words, explain. Blocks for about a millisecond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.query.application import pages
from services.query.application.degradation import Degradations
from services.query.application.diversity import maximal_marginal_relevance
from services.query.application.explanation import explain
from services.query.application.grouping import Group, by_document, each_alone
from services.query.application.query import Query
from services.query.application.ranking import Ranked
from services.query.ports import SearchIndex
from services.query.replica.model import ReplicaHit
from shared.search import DegradationReason, DiversityStep, GroupedChunk, Hit, Snippet

# A page ends before it has more bytes of text and metadata than this: gRPC clients refuse messages above 4 MB unless told otherwise.
_PAGE_BYTES = 3_500_000
# What a hit takes in a message beside its texts: ids, offsets, scores and the names of fields, rounded up.
_HIT_BYTES = 300
_EXPLANATION_BYTES = 400


@dataclass(frozen=True, slots=True)
class Page:
    """Hits, and the token that asks for those behind them; empty if there are none."""

    hits: tuple[Hit, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class _Arranged:
    """Groups in the order in which they are shown, and how diversity placed their heads."""

    groups: Sequence[Group]
    steps: Mapping[int, DiversityStep] = field(default_factory=dict)


class Assembler:
    """Makes pages."""

    def __init__(self, index: SearchIndex, *, page_bytes: int = _PAGE_BYTES) -> None:
        self._index = index
        self._page_bytes = page_bytes

    def page(self, query: Query, ranked: Ranked, degradations: Degradations) -> Page:
        """The page that the query asks for.

        Raises InvalidArgumentError (a page token of another search), ConflictError (the pages before it would be other ones now).
        """
        shown = pages.decode(query)
        arranged = self._arrange(query, ranked, shown.count + query.top_k, degradations)
        heads = [group.head for group in arranged.groups]
        if shown.count:
            ids = self._index.chunk_ids(query.project_id, heads[: shown.count])
            shown.require(ids.values())
        hits, used = self._hits(query, ranked, arranged.groups[shown.count : shown.count + query.top_k], arranged.steps)
        more = hits and shown.count + used < len(heads)
        return Page(tuple(hits), pages.encode(query, shown.and_then(hit.chunk.id for hit in hits)) if more else "")

    def _arrange(self, query: Query, ranked: Ranked, count: int, degradations: Degradations) -> _Arranged:
        if query.grouping is None:
            groups = each_alone(ranked.order)
        else:
            documents = self._index.documents_of(query.project_id, ranked.order)
            groups = by_document(ranked.order, documents, query.grouping.more_chunks)
        return _Arranged(groups) if query.diversity is None else self._diversify(query, ranked, groups, count, degradations)

    def _diversify(self, query: Query, ranked: Ranked, groups: Sequence[Group], count: int, degradations: Degradations) -> _Arranged:
        """Diversity among the groups; among those that were reranked alone, if any were, because only their scores can be compared."""
        assert query.diversity is not None  # noqa: S101 # for the type checker
        pool = [group for group in groups if group.head in ranked.reranked] or list(groups)
        heads = np.array([group.head for group in pool], dtype=np.int64)
        there, vectors = self._index.vectors_of(query.project_id, np.sort(heads))
        if pool and not there.size:
            degradations.add(
                DegradationReason.DIVERSITY_SKIPPED, "replica", "this replica does not keep the project's vectors: the order is that of the scores"
            )
            return _Arranged(groups)
        table = np.zeros((len(pool), vectors.shape[1]), dtype=np.float32)
        known = np.isin(heads, there)
        table[known] = vectors[np.searchsorted(there, heads[known])]
        chosen = maximal_marginal_relevance([ranked.scores[group.head] for group in pool], table, query.diversity.lambda_, count)
        places = {place for place, _ in chosen}
        rest = [group for place, group in enumerate(pool) if place not in places]
        in_pool = {group.head for group in pool}
        behind = [group for group in groups if group.head not in in_pool]
        return _Arranged([*(pool[place] for place, _ in chosen), *rest, *behind], {pool[place].head: step for place, step in chosen})

    def _hits(self, query: Query, ranked: Ranked, groups: Sequence[Group], steps: Mapping[int, DiversityStep]) -> tuple[Sequence[Hit], int]:
        """The groups' hits, and how many groups that took: no more than fit a page, but one hit. Groups whose best chunk is gone give none."""
        keys = [key for group in groups for key in (group.head, *group.others)]
        found = {hit.pk: hit for hit in self._index.hydrate(query.project_id, keys)}
        hits: list[Hit] = []
        size = used = 0
        for group in groups:
            head = found.get(group.head)
            if head is not None:
                others = [found[key] for key in group.others if key in found]
                size += _size(head) + sum(map(_size, others)) + _extras(query, head)
                if hits and size > self._page_bytes:
                    break
                hits.append(_hit(query, ranked, head, others, steps))
            used += 1
        return hits if query.snippets is None else self._with_snippets(query, hits), used

    def _with_snippets(self, query: Query, hits: Sequence[Hit]) -> Sequence[Hit]:
        assert query.snippets is not None  # noqa: S101 # for the type checker
        found = self._index.snippets(query.project_id, query.text, [hit.chunk.text for hit in hits], query.snippets)
        return [
            replace(hit, snippets=tuple(_shifted(snippet, hit.chunk.start) for snippet in snippets))
            for hit, snippets in zip(hits, found, strict=True)
        ]


def _hit(query: Query, ranked: Ranked, head: ReplicaHit, others: Sequence[ReplicaHit], steps: Mapping[int, DiversityStep]) -> Hit:
    fused, pk = ranked.fused, head.pk
    return Hit(
        document_id=head.document_id,
        title=head.title,
        metadata=head.metadata,
        chunk=head.chunk,
        score=ranked.scores[pk],
        vector=fused.vector.score(pk),
        keyword=fused.keyword.score(pk),
        more_chunks=tuple(
            GroupedChunk(other.chunk, ranked.scores[other.pk], fused.vector.score(other.pk), fused.keyword.score(other.pk)) for other in others
        ),
        explanation=explain(query, fused, pk, steps.get(pk), ranked.reranked.get(pk)) if query.explain else None,
        reranked=pk in ranked.reranked,
    )


def _shifted(snippet: Snippet, start: int) -> Snippet:
    """From offsets of a chunk's text to those of its document's."""
    return replace(snippet, start=start + snippet.start, end=start + snippet.end)


def _size(hit: ReplicaHit) -> int:
    """About the bytes that a chunk takes in a message."""
    metadata = sum(len(name) + len(str(value)) for name, value in hit.metadata.items())
    return _HIT_BYTES + len(hit.chunk.text.encode()) + 4 * (len(hit.title) + metadata)


def _extras(query: Query, hit: ReplicaHit) -> int:
    """At most the bytes that snippets and an explanation add to a hit."""
    snippets = min(len(hit.chunk.text), query.snippets.max_snippets * query.snippets.max_characters) if query.snippets else 0
    return 4 * snippets + (_EXPLANATION_BYTES if query.explain else 0)
