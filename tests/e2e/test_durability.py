"""Nothing that was acknowledged is lost, whenever the indexer is killed."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from services.cli.stack.stack import Ports, Stack
from services.query.feed_client import GrpcFeed
from shared.chroma.client import ChromaClient
from shared.client import KnowledgeBeast, SearchMode, SearchQuery
from shared.domain import DocumentBatch, DocumentId, DocumentInput, ProjectId
from shared.errors import UnavailableError
from shared.filters import Comparison, Operator
from shared.rpc.channel import create_channel
from tests.fixtures.stack import SOON
from tests.waiting import eventually

STACKS = 2  # side by side: most of a kill's time is the start after it
KILLS = 10  # of each stack
PROJECT = "docs"
SUBJECTS = ("rivers", "violins", "volcanoes", "satellites", "bakeries", "glaciers", "locomotives", "butterflies")


def document(number: int) -> DocumentInput:
    """A document with a word of its own."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return DocumentInput(
        DocumentId(f"d{number}"), "", f"Note {word(number)}: everything about {subject} and how they came to be.", {"number": number}
    )


def word(number: int) -> str:
    """A word that no other document has: letters alone, with an ending that the stemmer leaves alone, or it would make two of them equal."""
    return "q" + "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "k"


async def ingest_until_killed(stack: Stack, first: int, delay: float) -> tuple[list[int], str, int]:
    """Streams documents and kills the indexer `delay` seconds after the first result.

    Returns the numbers that were acknowledged, the last token, and the next number to send.
    """
    following, acknowledged, token = first, list[int](), ""

    async def batches() -> AsyncIterator[list[DocumentInput]]:
        nonlocal following
        while True:
            batch = [document(number) for number in range(following, following + 20)]
            following += len(batch)
            yield batch

    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        try:
            async for result in client.ingest(PROJECT, batches()):
                if not acknowledged:
                    asyncio.get_running_loop().call_later(delay, stack.kill_indexer)
                acknowledged += [int(row.document_id[1:]) for row in result.results if row.error is None]
                token = result.consistency_token
        except UnavailableError:
            assert acknowledged, "the indexer was killed before it was meant to be"
    return acknowledged, token, following


async def feed_ranges(address: str) -> tuple[list[tuple[int, int]], int]:
    """The ranges of the document feed from its beginning to its head."""
    channel = create_channel(address, max_message_bytes=16 * 1024 * 1024)
    ranges: list[tuple[int, int]] = []
    async with (
        asyncio.timeout(30),
        aclosing(GrpcFeed(channel, "test").watch_project(ProjectId(PROJECT), None, None, include_vectors=False)) as events,
    ):
        async for event in events:
            if isinstance(event, DocumentBatch):
                ranges.append((event.range.start, event.range.end))
                if event.range.end == event.range.head:
                    break
    await channel.close()
    return ranges, ranges[-1][1]


@pytest.mark.timeout(600)
async def test_twenty_kills_in_the_middle_of_ingest_lose_nothing(tmp_path: Path, model_dir: Path) -> None:
    """Each acknowledged document is there after restart, findable by keyword at once and by meaning once the projector has caught up."""
    stacks = [Stack(tmp_path / f"stack-{number}", model_dir, Ports.free(), settings=SOON) for number in range(STACKS)]
    try:
        async with asyncio.TaskGroup() as group:
            for number, stack in enumerate(stacks):
                group.create_task(kill_again_and_again(stack, random.Random(7 + number)))
    finally:
        await asyncio.gather(*(stack.stop() for stack in stacks))


async def kill_again_and_again(stack: Stack, chance: random.Random) -> None:
    """Starts a stack, kills its indexer in the middle of ingest and looks for what was acknowledged; then for everything."""
    await stack.start()
    acknowledged: list[int] = []
    following = 0
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        await client.create_project(PROJECT)
        for _ in range(KILLS):
            new, token, following = await ingest_until_killed(stack, following, chance.uniform(0.0, 0.15))
            acknowledged += new
            await stack.start_indexer()
            last = await client.search(PROJECT, SearchQuery(word(new[-1]), SearchMode.KEYWORD, at_least_as_fresh=token))
            assert [hit.document_id for hit in last.hits] == [f"d{new[-1]}"]
    async with KnowledgeBeast(stack.indexer_address, stack.query_address) as client:
        project = await client.get_project(PROJECT)
        stored = {found.id async for found in client.list_documents(PROJECT, page_size=1000)}
        assert {f"d{number}" for number in acknowledged} <= stored
        assert project.head == len(stored), "each committed change has one sequence, and there are no others"
        ranges, head = await feed_ranges(stack.indexer_address)
        assert ranges[0][0] == 0
        assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges)), "the ranges join without a gap"
        assert head == project.head

        await eventually(lambda: client.get_project(PROJECT), lambda seen: int(seen.vector_sequence) == int(seen.head), seconds=300)
        chroma = ChromaClient(stack.chroma_url)
        assert await chroma.count(project.collection, timeout=10) == len(stored)
        await chroma.close()
        # The indexer was away again and again: the query service has to hear of it before it says that nothing is missing.
        await eventually(lambda: client.search(PROJECT, SearchQuery(word(acknowledged[0]))), lambda answer: not answer.degraded)
        for number in chance.sample(acknowledged, 25):
            by_keyword = await client.search(PROJECT, SearchQuery(word(number), SearchMode.KEYWORD))
            assert [hit.document_id for hit in by_keyword.hits] == [f"d{number}"]
            # Thousands of documents say nearly the same: without the filter any of them could come first.
            itself = Comparison("number", Operator.EQUAL, number)
            by_meaning = await client.search(PROJECT, SearchQuery(document(number).text, SearchMode.VECTOR, filter=itself))
            assert [hit.document_id for hit in by_meaning.hits] == [f"d{number}"]
            assert by_meaning.degradations == ()
