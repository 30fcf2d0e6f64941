"""The search canary beside other work, and when something is wrong, over a replica with a few documents."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from services.query.application.canary import SearchCanary
from services.query.application.ladder import Fallbacks
from shared.domain import Cursor, DocumentInput, SequenceNumber
from shared.errors import UnavailableError, VectorStoreUnavailableError
from shared.golden.collection import Collection, Topic
from shared.observability import metrics
from tests.fakes.feed import make_batch, make_document
from tests.fixtures.world import DOCUMENTS, P, World, open_world

# The replica of a world has them as `d0` to `d3`, applied in sequences 1 to 4.
COLLECTION = Collection(
    "canary",
    tuple(DocumentInput(document.id, document.title, document.text, {}) for document in DOCUMENTS),
    (Topic("first", "alpha text"), Topic("second", "beta text")),
    {"first": {"d0": 3}, "second": {"d1": 3, "nowhere": 3}},
)


class Project:
    """Stands for the indexer: everything is in place, unless it fails."""

    def __init__(self) -> None:
        self.calls: list[Sequence[DocumentInput]] = []
        self.failure: Exception | None = None

    async def restore(self, documents: Sequence[DocumentInput], _deadline: object) -> Cursor:
        """See CanaryProject."""
        self.calls.append(documents)
        if self.failure:
            raise self.failure
        return Cursor("e1", SequenceNumber(len(DOCUMENTS)))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A replica and what is around it."""
    async with open_world(tmp_path) as opened:
        yield opened


def canary(world: World, project: Project, crowded: Callable[[], bool] = lambda: False) -> SearchCanary:
    """A canary of that world's project, with an interval that passes in no test."""
    return SearchCanary(world.search, world.replica, project, COLLECTION, P, interval=3_600.0, crowded=crowded)


def value(name: str, **labels: str) -> float:
    """A sample."""
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


def runs(outcome: str) -> float:
    """Runs so far that ended so."""
    return value("kb_search_canary_runs_total", outcome=outcome)


async def test_the_figure_is_the_mean_of_its_questions(world: World) -> None:
    """One question is answered as well as can be, of the other half of what there is to find is missing."""
    before, project = runs("succeeded"), Project()
    await canary(world, project).once()
    assert runs("succeeded") == before + 1
    # 3 / (3 + 3 / log2(3)) of the second question.
    assert value("kb_search_ndcg") == pytest.approx((1 + 0.6131) / 2, abs=1e-3)
    assert list(project.calls) == [COLLECTION.documents]


async def test_its_passages_are_written_again_only_when_somebody_else_wrote(world: World) -> None:
    """A run needs nothing of the indexer as long as the copy stands where the canary's own writing left it."""
    project = Project()
    runner = canary(world, project)
    await runner.once()
    await runner.once()
    assert len(project.calls) == 1
    world.replica.apply_documents(P, make_batch(4, make_document("mine", "something of mine")))
    await runner.once()
    assert len(project.calls) == 2


async def test_a_run_that_somebody_writes_into_tells_nothing(world: World) -> None:
    """The figure would be of neither state: none is exported, not even the one before, and the run has failed."""
    project, failed = Project(), runs("failed")
    runner = canary(world, project)
    await runner.once()
    succeeded = runs("succeeded")

    def write() -> bool:
        if runs("failed") == failed and len(world.embedder.calls) == 3:  # the second run's first question has been asked
            world.replica.apply_documents(P, make_batch(4, make_document("d0", "another text")))
        return False

    again = canary(world, project, write)
    await again.once()
    assert (runs("failed"), runs("succeeded")) == (failed + 1, succeeded)
    assert math.isnan(value("kb_search_ndcg"))


@pytest.mark.parametrize("failure", [UnavailableError("down", component="indexer"), ValueError("a bug")])
async def test_a_run_that_cannot_begin_has_failed_and_is_tried_again(world: World, failure: Exception) -> None:
    """Whatever it is: the service goes on, and the next run succeeds."""
    project, failed, succeeded = Project(), runs("failed"), runs("succeeded")
    project.failure = failure
    runner = canary(world, project)
    await runner.once()
    assert (runs("failed"), runs("succeeded")) == (failed + 1, succeeded)
    project.failure = None
    await runner.once()
    assert (runs("failed"), runs("succeeded")) == (failed + 1, succeeded + 1)


async def test_a_question_that_is_refused_fails_the_run(tmp_path: Path) -> None:
    """No figure is made of a part of the questions, and the one before no longer holds."""
    async with open_world(tmp_path, steps=Fallbacks(replica_vectors=False, last_answer=False, keyword=False)) as world:
        failed, runner = runs("failed"), canary(world, Project())
        world.store.fail(VectorStoreUnavailableError("down"))
        await runner.once()
        assert runs("failed") == failed + 1
        assert math.isnan(value("kb_search_ndcg"))
        world.store.heal()
        await runner.once()
        assert value("kb_search_ndcg") > 0


async def test_questions_wait_while_users_searches_do(world: World) -> None:
    """As long as somebody waits for a turn, nothing is asked; soon after, all is. Who waits for ever does not keep it from running."""
    crowd, looks = [True], asyncio.Event()

    def crowded() -> bool:
        looks.set()
        return crowd[0]

    run = asyncio.create_task(canary(world, Project(), crowded).once())
    await asyncio.wait_for(looks.wait(), 10)
    assert world.embedder.calls == []
    crowd[0] = False
    await asyncio.wait_for(run, 10)
    assert len(world.embedder.calls) == 2
    await asyncio.wait_for(canary(world, Project(), lambda: True).once(), 20)
    assert len(world.embedder.calls) == 4


async def test_it_ends_when_it_is_cancelled(world: World) -> None:
    """Between runs and in the middle of one, at once."""
    stuck = asyncio.Event()

    def crowded() -> bool:
        stuck.set()
        return True

    run = asyncio.create_task(canary(world, Project(), crowded).once())
    await asyncio.wait_for(stuck.wait(), 10)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    resting = asyncio.create_task(canary(world, Project()).run())
    await asyncio.sleep(0)
    resting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await resting
