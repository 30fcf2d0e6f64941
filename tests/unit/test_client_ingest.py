"""The ingest stream of the client: order, flow control, and every way to end."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing

import pytest

from shared.client import DocumentResult, IngestLimits, IngestResult, KnowledgeBeast
from shared.domain import DocumentId, DocumentInput
from shared.errors import DeadlineExceededError, NotFoundError, UnavailableError
from tests.fakes.servers import REFUSED, FakeServices


@pytest.fixture
def services() -> Iterator[FakeServices]:
    """Both services in memory."""
    with FakeServices() as running:
        yield running


@pytest.fixture
async def kb(services: FakeServices) -> AsyncIterator[KnowledgeBeast]:
    """A client of them, with project `p`."""
    async with KnowledgeBeast(services.indexer, services.query) as client:
        await client.create_project("p")
        yield client


class Source:
    """Batches of two documents; counts how many were taken."""

    def __init__(self, batches: int, error: Exception | None = None) -> None:
        self.taken = 0
        self.full = asyncio.Event()  # the fourth batch was taken
        self._batches = batches
        self._error = error

    async def __aiter__(self) -> AsyncIterator[Sequence[DocumentInput]]:
        for number in range(self._batches):
            self.taken += 1
            if self.taken == 4:
                self.full.set()
            texts = ("text", REFUSED if number == 1 else "text")
            yield [DocumentInput(DocumentId(f"{number}.{part}"), "", text, {}) for part, text in enumerate(texts)]
        if self._error is not None:
            raise self._error


async def test_every_document_gets_its_result_in_order(kb: KnowledgeBeast) -> None:
    """Refused ones have an error, the others a sequence; the last token covers all."""
    answers = [answer async for answer in kb.ingest("p", Source(3))]
    results = [result for answer in answers for result in answer.results]

    assert [result.index for result in results] == [0, 1, 2, 3, 4, 5]
    assert [result.document_id for result in results] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert [result.error is not None for result in results] == [False, False, False, True, False, False]
    assert answers[-1].consistency_token.endswith(":5")


async def test_no_more_batches_are_on_the_way_than_allowed(kb: KnowledgeBeast, services: FakeServices) -> None:
    """While the service acknowledges nothing, the source is read no further than the window and the batch in hand."""
    services.state.acknowledge.clear()
    source = Source(20)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_count(kb.ingest("p", source, limits=IngestLimits(max_unacknowledged=3))))
        await source.full.wait()
        done, _ = await asyncio.wait((reading,), timeout=0.2)

        assert not done
        assert source.taken == 4
        services.state.acknowledge.set()

    assert reading.result() == 40


async def test_a_slow_reader_slows_the_source(kb: KnowledgeBeast) -> None:
    """Results that nobody reads keep the window full."""
    source = Source(50)
    async with aclosing(kb.ingest("p", source, limits=IngestLimits(max_unacknowledged=2))) as answers:  # type: ignore[type-var] # it is a generator
        await anext(answers)
        await asyncio.sleep(0.2)  # what is tested: nothing happens meanwhile

        assert source.taken <= 4


async def test_a_service_that_acknowledges_nothing_is_given_up(kb: KnowledgeBeast, services: FakeServices) -> None:
    """Patience is counted from the last sign of life, and the call ends on the service's side too."""
    services.state.acknowledge.clear()

    with pytest.raises(DeadlineExceededError, match=r"has acknowledged nothing for 0\.2 s"):
        await _count(kb.ingest("p", Source(3), limits=IngestLimits(patience=0.2)))

    assert await asyncio.to_thread(services.state.ended.wait, 5)


async def test_a_slow_source_is_no_reason_to_give_up(kb: KnowledgeBeast) -> None:
    """Patience runs only while something is on the way."""

    async def slow() -> AsyncIterator[Sequence[DocumentInput]]:
        for number in range(2):
            await asyncio.sleep(0.3)  # what is tested: longer than the patience
            yield [DocumentInput(DocumentId(str(number)), "", "text", {})]

    assert await _count(kb.ingest("p", slow(), limits=IngestLimits(patience=0.1))) == 2


async def test_an_error_of_the_source_comes_after_the_results_of_what_it_gave(kb: KnowledgeBeast) -> None:
    """Nothing that was sent goes unreported."""
    seen: list[DocumentResult] = []
    with pytest.raises(ZeroDivisionError):
        await _collect(kb.ingest("p", Source(3, ZeroDivisionError())), seen)

    assert len(seen) == 6


async def test_an_error_of_the_service_ends_the_stream(kb: KnowledgeBeast) -> None:
    """A missing project is the domain's error, also when the service ends the stream while a batch is being sent (many tries, to meet that)."""
    for _ in range(100):
        with pytest.raises(NotFoundError):
            await _count(kb.ingest("missing", Source(3)))


async def test_a_connection_that_breaks_is_said_after_what_was_acknowledged(kb: KnowledgeBeast, services: FakeServices) -> None:
    """What was acknowledged before is not lost to the caller."""
    services.state.fail_after = 2
    seen: list[DocumentResult] = []
    with pytest.raises(UnavailableError, match=r"the indexer (at .* has ended the stream|does not answer)"):
        await _collect(kb.ingest("p", Source(5)), seen)

    assert len(seen) == 4


async def test_cancelling_reaches_the_service(kb: KnowledgeBeast, services: FakeServices) -> None:
    """The call ends there too, so it holds nothing for a client that has gone."""
    services.state.acknowledge.clear()
    source = Source(20)
    reading = asyncio.create_task(_count(kb.ingest("p", source)))
    assert await asyncio.to_thread(services.state.began.wait, 5)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading

    assert await asyncio.to_thread(services.state.ended.wait, 5)


async def test_leaving_early_ends_the_call(kb: KnowledgeBeast, services: FakeServices) -> None:
    """A caller that has seen enough closes the iterator."""
    async with aclosing(kb.ingest("p", Source(1000))) as answers:  # type: ignore[type-var] # it is a generator
        await anext(answers)

    assert await asyncio.to_thread(services.state.ended.wait, 5)


async def test_an_empty_source_writes_nothing(kb: KnowledgeBeast) -> None:
    """No batch, no result, no error."""
    assert await _count(kb.ingest("p", Source(0))) == 0


async def _collect(answers: AsyncIterator[IngestResult], seen: list[DocumentResult]) -> None:
    async for answer in answers:
        seen.extend(answer.results)


async def _count(answers: AsyncIterator[IngestResult]) -> int:
    seen: list[DocumentResult] = []
    await _collect(answers, seen)
    return len(seen)
