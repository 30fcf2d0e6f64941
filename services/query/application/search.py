"""The search: let the asked freshness come, look whether the answer is known, run the legs side by side, rank, and make a page of hits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from services.query.application import pages
from services.query.application.accounting import Account, Counted
from services.query.application.assembly import Assembler, Page
from services.query.application.batch import BatchEmbedder
from services.query.application.degradation import Degradations, Outages
from services.query.application.flights import Flights
from services.query.application.freshness import FreshnessGate, freshness_of
from services.query.application.ladder import Ladder
from services.query.application.legs import Budgets, Found, Legs
from services.query.application.offload import offload
from services.query.application.query import Query
from services.query.application.ranking import Ranked, rank
from services.query.application.reranking import RerankingStep
from services.query.application.results import Question, ResultCache, ResultKey
from services.query.application.slow_searches import SlowSearches
from services.query.application.stopwatch import Stopwatch
from services.query.application.vector_leg import VectorLeg
from services.query.ports import FeedState, SearchIndex
from services.query.replica.model import ReplicaProject
from shared.domain import Cursor
from shared.observability import tracing
from shared.ports import Embedder, Reranker, VectorReader
from shared.resilience.deadline import Deadline
from shared.search import SearchAnswer, SearchMode

# Searches of one batch that run at a time: more would only wait for the same cores.
_BATCH_CONCURRENCY = 8
# Seconds that a shared search gets beyond the budgets of its parts, for a busy machine.
_SHARED_SLACK = 1.0
# The share of its time that a caller in a hurry waits for a shared search, before it makes do with what can be had alone in the rest: the query's
# vector is there by then, and if it was the vector store that took so long, its own vectors or words answer within milliseconds.
_HURRIED_SHARE = 0.8
# Candidates and hits up to which a page is made where it is asked for, rather than in a thread.
_SMALL_WINDOW = 200
_SMALL_PAGE = 20
# Characters of what is searched for that a span has at most, where it may have them.
_TRACED_TEXT = 500


class Search:
    """Answers searches.

    Args:
        index: the replica.
        store: the vector store.
        embedder: of queries.
        feed: what is known of the indexer.
        budgets: seconds that parts of a search get.
        results: answers that are kept.
        ladder: what stands in when vectors cannot be searched.
        reranker: None if there is none.
        outages: shared with the other use cases, so that all say since when.
        account: is told of every search; None counts them all and finds none slow.
        trace_texts: the beginning of what is searched for stands in traces.
    """

    def __init__(  # noqa: PLR0913 - what it is made of; bootstrap.py alone makes one
        self,
        index: SearchIndex,
        store: VectorReader,
        embedder: Embedder,
        feed: FeedState,
        budgets: Budgets,
        results: ResultCache[ResultKey, SearchAnswer],
        ladder: Ladder,
        *,
        reranker: Reranker | None = None,
        outages: Outages | None = None,
        account: Account | None = None,
        trace_texts: bool = False,
    ) -> None:
        self._trace_texts = trace_texts
        self._account = account or Counted(SlowSearches(0))
        self._outages = outages or Outages()
        self._gate = FreshnessGate(index, feed, self._outages)
        self._index = index
        self._embedder = embedder
        self._budgets = budgets
        self._ladder = ladder
        vector_leg = VectorLeg(index, store, self._outages, stand_in=ladder.steps.replica_vectors)
        self._legs = Legs(index, vector_leg, budgets, self._outages)
        self._reranking = RerankingStep(index, reranker, self._outages, budgets.rerank)
        self._assembler = Assembler(index)
        self._results = results
        self._flights: Flights[tuple[ResultKey, Cursor | None], SearchAnswer] = Flights()
        self._tracer = tracing.get_tracer(__name__)

    async def run(self, query: Query, deadline: Deadline) -> SearchAnswer:
        """Answers one search.

        Raises NotFoundError (no such project), FailedPreconditionError (a token of an earlier incarnation; no reranker), InvalidArgumentError (a
        page token of another search), ConflictError (the pages before would be other ones now), DeadlineExceededError (the asked freshness did
        not come in time), UnavailableError (something is missing and the query allows no degraded answer, or nothing stands in for it).
        """
        return await self._run(query, self._embedder, deadline)

    async def run_batch(self, queries: Sequence[Query], deadline: Deadline) -> AsyncGenerator[tuple[int, SearchAnswer | Exception], None]:
        """Answers several searches, whose queries are embedded together: (position, answer or what went wrong), each as soon as it is there."""
        embedder = BatchEmbedder(self._embedder, [query.text for query in queries if query.mode is not SearchMode.KEYWORD])
        waiting = iter(enumerate(queries))
        # Bounded, so that answers do not pile up behind a client that reads slowly.
        answers: asyncio.Queue[tuple[int, SearchAnswer | Exception]] = asyncio.Queue(_BATCH_CONCURRENCY)

        async def work() -> None:
            for position, query in waiting:
                try:
                    await answers.put((position, await self._run(query, embedder, deadline)))
                except Exception as error:  # noqa: BLE001 - one search's failure, of whatever kind, is its own
                    await answers.put((position, error))

        workers = [asyncio.create_task(work()) for _ in range(min(_BATCH_CONCURRENCY, len(queries)))]
        try:
            for _ in queries:
                yield await answers.get()
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _run(self, query: Query, embedder: Embedder, deadline: Deadline) -> SearchAnswer:
        watch, degradations = Stopwatch(), Degradations(self._outages)
        pages.decode(query)  # refused before any work is done
        self._reranking.require(query)
        with self._tracer.start_as_current_span("HybridQueryEngine.search_hybrid") as span:
            if span.is_recording():
                span.set_attributes(_asked(query))
                if self._trace_texts:
                    span.set_attribute("kb.query.text", query.text[:_TRACED_TEXT])
            by_meaning = query.mode is not SearchMode.KEYWORD
            project = await self._gate.enter(query.project_id, query.fresh_as, deadline, degradations, watch, vectors=by_meaning)
            with self._account.refusals():
                answer = await self._obtain(query, project, embedder, deadline)
            self._gate.leave(project, degradations)
            degradations.extend(answer.degradations)
            if not query.allow_degraded:
                degradations.refuse()
            if span.is_recording():
                span.set_attributes(_answered(answer, degradations))
        spent = watch.read()
        answer = replace(
            answer,
            degradations=degradations.found,
            freshness=replace(answer.freshness, head=project.head, contact_time=project.contact_time),
            timings=spent if answer.cached else replace(answer.timings, total=spent.total, wait=spent.wait),
        )
        self._account.answered(query, answer, degradations)
        return answer

    async def _obtain(self, query: Query, project: ReplicaProject, embedder: Embedder, deadline: Deadline) -> SearchAnswer:
        """What is kept of an equal search of this state of the project, or else computed."""
        key = ResultKey.of(project, replace(query, fresh_as=None, allow_degraded=True))
        kept = self._results.get(key)
        if kept is not None:
            self._ladder.used(key.question)
            return replace(kept, cached=True)
        # What is shared has as much time as its parts may take, whoever began it; each caller waits for it within its own.
        patience = self._budgets.embed + self._budgets.vector + (self._budgets.rerank if query.reranking else 0.0) + _SHARED_SLACK
        remaining = deadline.remaining()
        try:
            async with asyncio.timeout(remaining if remaining > patience else remaining * _HURRIED_SHARE):
                # Which write must be shown is a part of what is shared: it decides whether an earlier answer may stand in.
                flight = (key, query.fresh_as)
                answer, shared = await self._flights.run(
                    flight, lambda: self._compute(query, key.question, project, embedder, Deadline.after(patience))
                )
            tracing.attribute("kb.shared", shared)
        except TimeoutError:
            # In a hurry: what cannot be had in the time that is left is left out, for this caller alone.
            answer = await self._compute(query, key.question, project, embedder, deadline)
        self._results.put(key, answer)
        return answer

    async def _compute(self, query: Query, question: Question, project: ReplicaProject, embedder: Embedder, deadline: Deadline) -> SearchAnswer:
        """The answer as far as it does not depend on who asks when."""
        watch, degradations = Stopwatch(), Degradations(self._outages)
        found = await self._legs.run(query, project, embedder, deadline, degradations, watch)
        if found.missing is not None:
            last = await self._ladder.descend(
                found.missing, query.project_id, question, query.fresh_as, degradations, keyword="these are keyword hits alone"
            )
            if last is not None:
                return last.again(degradations.found, watch.read())
        ranked = None
        if query.reranking is not None:
            with watch.stage("assemble"):
                ranked = await asyncio.to_thread(rank, self._index, query.project_id, found.fused)
            ranked = await self._reranking.apply(query, ranked, deadline, degradations, watch)
        with watch.stage("assemble"):
            page = await offload(self._page, query, found, ranked, degradations, small=_is_small(query))
        freshness = freshness_of(project, from_replica=found.from_replica)
        answer = SearchAnswer(page.hits, query.mode, degradations.found, freshness, watch.read(), page.next_page_token)
        if self._gate.is_whole(project):
            self._ladder.keep(question, answer)
        return answer

    def _page(self, query: Query, found: Found, ranked: Ranked | None, degradations: Degradations) -> Page:
        return self._assembler.page(query, ranked or rank(self._index, query.project_id, found.fused), degradations)


def _asked(query: Query) -> dict[str, str | int | float | bool]:
    """What a span says of a search."""
    return {
        "kb.project": query.project_id,
        "kb.mode": query.mode.value,
        "kb.fusion": query.fusion.value,
        "kb.alpha": query.vector_weight,
        "kb.top_k": query.top_k,
        "kb.candidates": query.window,
        "kb.filtered": query.filter is not None,
    }


def _answered(answer: SearchAnswer, degradations: Degradations) -> dict[str, str | int | bool | list[str]]:
    """What a span says of its answer."""
    reasons = [degradation.reason.value for degradation in degradations.found]
    return {"kb.hits": len(answer.hits), "kb.cached": answer.cached, "kb.degraded": bool(reasons), "kb.degraded.reasons": reasons}


def _is_small(query: Query) -> bool:
    """Whether making the page takes less than about half a millisecond."""
    extras = query.grouping or query.diversity or query.snippets or query.page_token
    return query.window <= _SMALL_WINDOW and query.top_k <= _SMALL_PAGE and not extras
