"""Measures collections through a stack of ChromaDB, indexer and query service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.cli.console import line
from services.cli.progress import Meter
from services.cli.quality.ask import project_id, rankings, write
from services.cli.quality.measure import Measures, mean, measure
from services.cli.quality.systems import DEAD_KEYWORD, DEAD_VECTORS, DEFAULT, KEYWORD, SYSTEMS, VECTOR, System
from services.cli.quality.targets import Check, checks, int8_check, outage_checks
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start
from shared.client import KnowledgeBeast
from shared.errors import KnowledgeBeastError
from shared.golden.collection import Collection

ONNX = {"KB_EMBEDDING_BACKEND": "onnx"}
TORCH = {"KB_EMBEDDING_BACKEND": "torch"}

_TIMEOUT = 60.0  # seconds a call: the first search after a start reads ChromaDB's index


@dataclass(frozen=True, slots=True)
class Scores:
    """How a system did: over all questions, and by kind."""

    system: System
    overall: Measures
    kinds: Mapping[str, Measures]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured on a collection.

    Attributes:
        original: vector and hybrid search with the model in fp32, if that was asked for.
        outage: hybrid search by default without ChromaDB, if that was asked for.
    """

    collection: Collection
    chunks: int
    scores: tuple[Scores, ...]
    original: tuple[Scores, ...] = ()
    outage: tuple[Scores, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def met(self) -> bool:
        """All targets are met."""
        return all(check.met for check in self.checks)


@asynccontextmanager
async def running(folder: Path, models: Path, settings: Mapping[str, str]) -> AsyncIterator[tuple[Stack, KnowledgeBeast]]:
    """A stack with its data in `folder`, and a client of it."""
    stack = Stack(folder, models, Ports.free(), settings=settings)
    try:
        await start(stack, line, lambda process: line(f"{process.name} is ready (process {process.pid})", style="dim"))
        async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=_TIMEOUT) as kb:
            yield stack, kb
    finally:
        await stack.stop()


async def assess(kb: KnowledgeBeast, collection: Collection) -> Outcome:
    """Writes a collection, asks its questions in every way, and checks its targets."""
    scores, chunks = await _scores(kb, collection, SYSTEMS)
    found = {score.system.name: score.overall for score in scores}
    return Outcome(collection, chunks, scores, checks=checks(collection.name, found))


async def with_original(kb: KnowledgeBeast, outcome: Outcome) -> Outcome:
    """The outcome beside that of services that run the original model, with the check that the exported one is as good."""
    compared = [system for system in SYSTEMS if system.name in {VECTOR, DEFAULT}]  # those that the model has a part in
    original, _ = await _scores(kb, outcome.collection, compared)
    check = int8_check(_default_of(outcome.scores).overall, _default_of(original).overall)
    return replace(outcome, original=original, checks=(*outcome.checks, check))


async def without_chromadb(folder: Path, models: Path, outcome: Outcome) -> Outcome:
    """The outcome beside that of hybrid searches with ChromaDB dead: with the replica's vectors, and with those and kept answers switched off.

    `folder` has the collection's data from `assess`, so that nothing is embedded again.
    """
    no_vectors = {"KB_FALLBACK_REPLICA_VECTORS": "false", "KB_FALLBACK_LAST_ANSWER": "false"}
    found: list[Scores] = []
    for system, settings in ((DEAD_VECTORS, {}), (DEAD_KEYWORD, no_vectors)):
        async with running(folder, models, {**ONNX, **settings}) as (stack, kb):
            scores, _ = await _scores(kb, outcome.collection, [system], written=stack.kill_chroma)
            found += scores
    of = {score.system.name: score.overall for score in outcome.scores}
    more = outage_checks(of[DEFAULT], of[KEYWORD], found[0].overall, found[1].overall)
    return replace(outcome, outage=tuple(found), checks=(*outcome.checks, *more))


async def _scores(
    kb: KnowledgeBeast, collection: Collection, systems: Sequence[System], *, written: Callable[[], None] = lambda: None
) -> tuple[tuple[Scores, ...], int]:
    """How systems do on a collection, and in how many chunks it was cut. `written` is called before the questions are asked."""
    try:
        token = await write(kb, collection)
        written()
        with Meter(f"asking {collection.name}", "questions", len(collection.topics) * len(systems)) as meter:
            scores = [_score(collection, system, await rankings(kb, collection, system, token, meter)) for system in systems]
    except ExceptionGroup as group:  # of the questions that were asked side by side; one error is enough to say what is wrong
        raise next((error for error in group.exceptions if isinstance(error, KnowledgeBeastError)), group) from group
    return tuple(scores), (await kb.get_project(project_id(collection))).chunk_count


def _default_of(scores: Sequence[Scores]) -> Scores:
    return next(score for score in scores if score.system.name == DEFAULT)


def _score(collection: Collection, system: System, found: Mapping[str, Sequence[str]]) -> Scores:
    each = measure(found, collection.judgements)
    kinds = {kind: mean(each[topic.id] for topic in collection.topics if topic.kind == kind) for kind in collection.kinds}
    return Scores(system, mean(each.values()), kinds)
