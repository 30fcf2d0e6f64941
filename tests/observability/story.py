"""What a stack goes through for the tests of its metrics, and what it shows on the way: told once, looked at by many.

A chapter that goes wrong ends the story, and is named by the tests of what it and later ones would have shown; those of earlier ones pass.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.cli.stack.process import free_port
from services.cli.stack.stack import Stack
from shared.client import KnowledgeBeast, SearchQuery
from shared.domain import DocumentId, DocumentInput, ProjectState
from shared.search import SearchMode
from tests.observability.scrape import Scrape, scrape
from tests.waiting import eventually

PROJECTS = 24
# Documents that are written, of one chunk each: three to each of five projects and to one more, one to each of the others.
DOCUMENTS = 3 * 6 + (PROJECTS - 5)
# Quick looks, so that nothing is waited for; a breaker that opens at the first failures; every search is slow; comparisons while it lasts.
SETTINGS = {
    "KB_COLLECTION_CHECK": "0.5",
    "KB_BREAKER_FAILURES": "2",
    "KB_RETRY_INITIAL": "0.05",
    "KB_SLOW_SEARCH": "0.0001",
    "KB_VERIFY_INTERVAL": "2",
    "KB_REPLICA_VERIFY_INTERVAL": "2",
}
TEXTS = ("Beasts of knowledge live in libraries.", "A scrape must not hold up a search.", "Vectors are made of words.")


@contextmanager
def traced(*, recorded: bool) -> Iterator[str]:
    """Calls within are part of a trace; yields its id."""
    trace_id = random.getrandbits(128)
    span = NonRecordingSpan(SpanContext(trace_id, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED if recorded else 0)))
    token = context.attach(trace.set_span_in_context(span))
    try:
        yield format(trace_id, "032x")
    finally:
        context.detach(token)


class Chapters(dict[str, Scrape]):
    """What a service showed, by chapter. One that is not there fails the test that asks for it, with what went wrong."""

    broke_off = "it has no such chapter"

    def __missing__(self, chapter: str) -> Scrape:
        """Says why."""
        raise AssertionError(f"the story never came to {chapter!r}: {self.broke_off}")


@dataclass(slots=True)
class Story:
    """What the indexer and the query service showed, and the traces of what happened."""

    indexer: Chapters = field(default_factory=Chapters)
    query: Chapters = field(default_factory=Chapters)
    traces: dict[str, str] = field(default_factory=dict)

    async def look(self, stack: Stack, chapter: str) -> None:
        """Reads both."""
        self.indexer[chapter], self.query[chapter] = await scrape(stack.ports.indexer_http), await scrape(stack.ports.query_http)


def _documents(name: str, count: int = len(TEXTS)) -> list[DocumentInput]:
    return [DocumentInput(DocumentId(f"{name}-{place}"), f"{name} {place}", text, {}) for place, text in enumerate(TEXTS[:count])]


async def tell(stack: Stack) -> Story:
    """All of it; ends with a stack whose ChromaDB and indexer are gone."""
    story = Story()
    chapters = (_write, _search, _rebuild, _follow_from_nothing, _count, _delete, _lose_chroma, _lose_the_indexer)
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as kb:
        await story.look(stack, "start")
        for chapter in chapters:
            try:
                await chapter(stack, kb, story)
            except Exception as error:  # noqa: BLE001 - whatever it is: the tests say it
                story.indexer.broke_off = story.query.broke_off = f"{chapter.__doc__} {error!r}"
                break
    return story


async def _shown(port: int, values: Mapping[str, float], above: Mapping[str, float] | None = None, **labels: str) -> Scrape:
    """What a service shows once these samples have these values, and others are above theirs; fails with what they were."""
    above = above or {}
    shown: list[Scrape] = []

    async def look() -> dict[str, float]:
        shown[:] = [await scrape(port)]
        return {name: shown[0].value(name, **labels) for name in (*values, *above)}

    await eventually(
        look,
        lambda seen: all(seen[name] == value for name, value in values.items()) and all(seen[name] > value for name, value in above.items()),
        seconds=30,
    )
    return shown[0]


async def _write(stack: Stack, kb: KnowledgeBeast, story: Story) -> None:
    """`written`: many projects, the first ones with more than the others, and a recorded write into one more."""

    async def fill(number: int) -> None:
        await kb.create_project(f"many-{number:02}")
        await kb.upsert(f"many-{number:02}", _documents("m", 3 if number < 5 else 1))

    await asyncio.gather(*map(fill, range(PROJECTS)))
    await kb.create_project("told")
    with traced(recorded=True) as story.traces["write"]:
        await kb.upsert("told", _documents("d"))
    for stream in ("documents", "vectors"):
        await _shown(stack.ports.query_http, {"kb_feed_changes_applied_total": DOCUMENTS}, stream=stream)
    await _shown(stack.ports.query_http, {"kb_feed_lag_seconds": 0})
    await _shown(
        stack.ports.indexer_http,
        {"kb_chromadb_collection_size": DOCUMENTS, "kb_feed_follower_lag_sequences": 0, "kb_projector_lag_sequences": 0},
    )
    await story.look(stack, "written")


async def _search(stack: Stack, kb: KnowledgeBeast, story: Story) -> None:
    """`searched`: each mode, the first one recorded, the last one not; the first one again, and a page of another size of it; what is similar."""
    with traced(recorded=True) as story.traces["search"]:
        await kb.search("told", SearchQuery("where do beasts live", mode=SearchMode.HYBRID))
    await kb.search("told", SearchQuery("where do beasts live", mode=SearchMode.HYBRID))
    await kb.search("told", SearchQuery("where do beasts live", mode=SearchMode.HYBRID, top_k=1))
    await kb.search("told", SearchQuery("scrape", mode=SearchMode.KEYWORD))
    with traced(recorded=False) as story.traces["unrecorded"]:
        await kb.search("told", SearchQuery("words and vectors", mode=SearchMode.VECTOR))
    await kb.find_similar("told", "d-0")
    await story.look(stack, "searched")


async def _rebuild(stack: Stack, kb: KnowledgeBeast, story: Story) -> None:
    """`rebuilt`: a project's vectors have been written to ChromaDB once more."""
    await kb.rebuild_vectors("told")
    await eventually(lambda: kb.get_project("told"), lambda project: project.state is ProjectState.ACTIVE, seconds=60)
    await story.look(stack, "rebuilt")


async def _follow_from_nothing(stack: Stack, _kb: KnowledgeBeast, story: Story) -> None:
    """`another`: of a second query service, which has copied everything; and of the indexer, which has two followers, then one again."""
    ports = {name: str(free_port()) for name in ("KB_QUERY_PORT", "KB_QUERY_HTTP_PORT", "KB_QUERY_HEALTH_PORT")}
    variables = {**ports, "KB_DATA_DIR": str(stack.data_dir / "another"), "KB_QUERY_NAME": "another"}
    process = stack.another("query", "another", f"127.0.0.1:{ports['KB_QUERY_PORT']}", variables)
    await process.start(60)
    try:
        port = int(ports["KB_QUERY_HTTP_PORT"])
        story.query["another"] = await _shown(port, {"kb_feed_changes_applied_total": DOCUMENTS}, stream="vectors")
        story.indexer["another"] = await scrape(stack.ports.indexer_http)
    finally:
        process.kill()

    async def followers() -> set[str]:
        return (await scrape(stack.ports.indexer_http)).labels("kb_feed_follower_lag_sequences", "follower")

    await eventually(followers, lambda names: "another" not in names, seconds=30)


async def _count(stack: Stack, _kb: KnowledgeBeast, story: Story) -> None:
    """`counted`: the health checks have looked at what was written, and it has been compared."""
    there, once = {"kb_active_projects": PROJECTS + 1}, {"kb_reconcile_duration_seconds_count": 0}
    await _shown(stack.ports.indexer_http, {**there, "kb_catalog_documents": DOCUMENTS}, once)
    await _shown(stack.ports.query_http, {**there, "kb_replica_vectors": DOCUMENTS}, {"kb_replica_verified_timestamp_seconds": 0})
    await story.look(stack, "counted")


async def _delete(stack: Stack, kb: KnowledgeBeast, story: Story) -> None:
    """`deleted`: a document and one of the largest projects are gone."""
    await kb.delete_documents("told", ["d-2"])
    await kb.delete_project("many-00")

    async def shown() -> set[str]:
        return (await scrape(stack.ports.indexer_http)).labels("kb_chromadb_collection_size", "project")

    await eventually(shown, lambda projects: "many-00" not in projects, seconds=30)
    await story.look(stack, "deleted")


async def _lose_chroma(stack: Stack, kb: KnowledgeBeast, story: Story) -> None:
    """`outage`: ChromaDB is dead, searches are degraded, a write waits for it."""
    stack.kill_chroma()
    await kb.upsert("told", [DocumentInput(DocumentId("late"), "", "Written during the outage.", {})])
    for number in range(3):
        await kb.search("told", SearchQuery(f"what is degraded {number}"))
    await kb.find_similar("told", "d-0")
    await _shown(stack.ports.indexer_http, {"kb_chromadb_up": 0}, {"kb_projector_lag_seconds": 0.2, "kb_projector_failures_total": 0})
    await _shown(stack.ports.query_http, {"kb_chromadb_up": 0, "kb_feed_lag_seconds": 0})
    await story.look(stack, "outage")


async def _lose_the_indexer(stack: Stack, _kb: KnowledgeBeast, story: Story) -> None:
    """`alone`: of the query service, whose indexer is dead."""
    stack.kill_indexer()
    story.query["alone"] = await _shown(stack.ports.query_http, {"kb_feed_connected": 0}, {"kb_feed_lag_seconds": 0.2})
