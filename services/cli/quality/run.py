"""Measures collections through a stack of ChromaDB, indexer and query service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from services.cli.console import line
from services.cli.progress import Meter
from services.cli.quality.ask import project_id, rankings, write
from services.cli.quality.collection import Collection
from services.cli.quality.measure import Measures, mean, measure
from services.cli.quality.systems import DEFAULT, SYSTEMS, VECTOR, System
from services.cli.quality.targets import Check, checks, int8_check
from services.cli.stack.stack import Ports, Stack
from services.cli.supervisor import start
from shared.client import KnowledgeBeast
from shared.errors import KnowledgeBeastError

_TIMEOUT = 60.0  # seconds a call: the first search after a start reads ChromaDB's index


@dataclass(frozen=True, slots=True)
class Scores:
    """How a system did: over all questions, and by kind."""

    system: System
    overall: Measures
    kinds: Mapping[str, Measures]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured on a collection. `original`: vector and hybrid search with the model in fp32, if that was asked for."""

    collection: Collection
    chunks: int
    scores: tuple[Scores, ...]
    original: tuple[Scores, ...] = ()
    checks: tuple[Check, ...] = ()

    @property
    def met(self) -> bool:
        """All targets are met."""
        return all(check.met for check in self.checks)


@asynccontextmanager
async def running(folder: Path, models: Path, backend: str) -> AsyncIterator[KnowledgeBeast]:
    """A stack with its data in `folder`, and a client of it. `backend`: what runs the embedding model, `onnx` or `torch`."""
    stack = Stack(folder, models, Ports.free(), settings={"KB_EMBEDDING_BACKEND": backend})
    try:
        await start(stack, line, lambda process: line(f"{process.name} is ready (process {process.pid})", style="dim"))
        async with KnowledgeBeast(stack.indexer_address, stack.query_address, timeout=_TIMEOUT) as kb:
            yield kb
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


async def _scores(kb: KnowledgeBeast, collection: Collection, systems: Sequence[System]) -> tuple[tuple[Scores, ...], int]:
    """How systems do on a collection, and in how many chunks it was cut."""
    try:
        token = await write(kb, collection)
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
